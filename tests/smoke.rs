//! The harness finds its devices.
mod harness;

#[test]
fn devices_are_found() {
    let t = colatent::Tensor::from_f32(&harness::devices()[0], colatent::DType::F16, &[2], &[1.0, 2.0]).unwrap();
    assert_eq!(t.read_f32().unwrap(), [1.0, 2.0]);
}
