//! Latents as codes: the lanes behind them turn, as values of their own, and no code changes.
//! Planted on the host and seen red on every device: the row turned from its first byte on.

use colatent::DType::{BF16, E4M3, F32};
use colatent::kv::Rebased;
use colatent::layer::{KvScale, LayerSpec, Pairing, Rope};
use colatent::rebase::{RebasePlan, RebaseProblem};
use colatent::{DType, Error, Tensor};

use super::turn;
use crate::harness::{Rng, compare, devices, poisoned};

const LATENT: usize = 32;
const TAIL: usize = 16;

#[test]
fn the_tail_of_codes_turns_and_the_codes_stay() {
    for (pairing, gap, page_size) in [(Pairing::Half, 0, 4), (Pairing::Adjacent, 16, 1)] {
        let rope = Some(Rope::plain(TAIL, 1e4, pairing).at_lane(LATENT));
        let latent = LayerSpec { rope, head_dim_v: LATENT, v_in_k: true, ..LayerSpec::new(4, 2, LATENT + TAIL) };
        let spec = latent.with_coded_latent(E4M3, KvScale::Token);
        let alone =
            LayerSpec { rope: Some(Rope::plain(TAIL, 1e4, pairing)), kv_dtype: BF16, ..LayerSpec::new(4, 2, TAIL) };
        let (num_pages, row) = (8 / page_size, spec.key_elements() + gap);
        let runs = [
            Rebased { places: vec![1, 6, 3], shift: [700; 4] },
            Rebased { places: vec![4], shift: [-31; 4] },
            Rebased { places: vec![0], shift: [0; 4] },
        ];
        let mut want: Option<Vec<f32>> = None;
        for device in devices() {
            let whole = poisoned(device, E4M3, &[num_pages + 1, 2, page_size, row]);
            let shape = [num_pages, 2, page_size, spec.key_elements()];
            let codes = Tensor::with_strides(whole.buffer().clone(), E4M3, gap, &shape, whole.strides()).unwrap();
            let k = spec.key_pages(&codes).unwrap();
            let k = k.with_scales(&Tensor::zeros(device, F32, &shape[..3]).unwrap()).unwrap();
            let values = Rng(4).values(k.len());
            k.write_f32(&values).unwrap();
            let (before, scales) = (k.buffer().read().unwrap(), k.scales().unwrap().read_f32().unwrap());
            turn(device, &spec, page_size, &runs, &k, None);
            let after = k.buffer().read().unwrap();
            // Of what changed, all lies in tails of tokens that move.
            for at in (0..before.len()).filter(|&at| before[at] != after[at]) {
                let (vector, byte) = ((at - gap) / row, (at - gap) % row);
                let place = vector / (2 * page_size) * page_size + vector % page_size;
                assert!(byte >= LATENT && [1, 6, 3, 4].contains(&place), "byte {byte} of {vector} on {device}");
            }
            assert_eq!(k.scales().unwrap().read_f32().unwrap(), scales);

            let got = k.tail().unwrap().read_f32().unwrap();
            let want = want.get_or_insert_with(|| {
                let shape = [num_pages, 2, page_size, TAIL];
                let lanes: Vec<f32> = values.chunks(LATENT + TAIL).flat_map(|x| x[LATENT..].to_vec()).collect();
                let tail = Tensor::from_f32(device, BF16, &shape, &lanes).unwrap();
                turn(device, &alone, page_size, &runs, &tail, None);
                tail.read_f32().unwrap()
            });
            compare(&format!("tail on {device}"), &got, want, BF16).unwrap();
        }
    }
}

#[test]
fn codes_without_a_tail_and_deltas_of_codes_are_refused() {
    let latent = LayerSpec { head_dim_v: LATENT, v_in_k: true, ..LayerSpec::new(2, 1, LATENT + TAIL) };
    let spec = latent.with_coded_latent(DType::I8, KvScale::Token);
    for device in devices() {
        let plan = |spec: &LayerSpec, has_delta| {
            RebasePlan::new(device, &RebaseProblem { spec, page_size: 4, num_pages: 2, runs: &[], has_delta })
        };
        let plain = LayerSpec { tail_dtype: None, ..spec.clone() };
        assert!(matches!(plan(&plain, false), Err(Error::Unsupported { .. })), "{device}");
        assert!(matches!(plan(&spec, true), Err(Error::Unsupported { .. })), "{device}");
        plan(&spec, false).unwrap();
    }
}
