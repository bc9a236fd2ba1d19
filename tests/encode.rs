//! An engine's own `wgpu` device, buffers and encoder: attention is encoded, the engine submits. And memory of another
//! device is refused by name.
#![cfg(feature = "webgpu")]
mod harness;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::{Buffer, DType, Device, Error, Tensor, Workspace, wgpu};

const PAGES: usize = 4;
const PAGE_SIZE: usize = 16;

fn numbers(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * step) % 101) as f32 / 50.0 - 1.0).collect()
}

/// q, k, v, out on a device; k and v in one buffer as `[page, 2, slot, head, dim]`, the way engines keep them.
fn memory(device: &Device, spec: &LayerSpec, rows: usize, buffer: Buffer) -> [Tensor; 4] {
    let (kv, d) = (spec.num_kv_heads, spec.head_dim);
    let half = PAGE_SIZE * kv * d;
    let pages = |part: usize| {
        let shape = [PAGES, PAGE_SIZE, kv, d];
        let strides = [2 * half, kv * d, d, 1];
        let t = Tensor::with_strides(buffer.clone(), DType::F32, part * half, &shape, &strides).expect("a view");
        t.permute(&[0, 2, 1, 3]).expect("a permutation")
    };
    let (k, v) = (pages(0), pages(1));
    k.write_f32(&numbers(PAGES * half, 7)).expect("a write");
    v.write_f32(&numbers(PAGES * half, 11)).expect("a write");
    let q = numbers(rows * spec.num_q_heads * d, 13);
    let q = Tensor::from_f32(device, DType::F32, &[rows, spec.num_q_heads, d], &q).expect("memory");
    let out = Tensor::zeros(device, DType::F32, &[rows, spec.num_q_heads, d]).expect("memory");
    [q, k, v, out]
}

#[test]
fn an_engine_encodes_and_submits() {
    let Some((engine, queue, info)) = harness::wgpu_device() else {
        assert!(!std::env::var("COLATENT_REQUIRE").unwrap_or_default().contains("webgpu"), "no adapter");
        eprintln!("SKIPPED on webgpu: no adapter");
        return;
    };
    let device = Device::from_wgpu(engine.clone(), queue.clone(), &info).expect("default limits are enough");
    let spec = LayerSpec::new(4, 2, 32);
    let mut cache = KvCache::new(PAGE_SIZE, PAGES).expect("a pool");
    let view = cache.create();
    let rows = [QueryRows::from(cache.append(view, Modality::Text, 40).expect("room"))];
    let bytes = PAGES * 2 * PAGE_SIZE * 2 * 32 * 4;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let desc = wgpu::BufferDescriptor { label: None, size: bytes as u64, usage, mapped_at_creation: false };
    let owned = Buffer::from_wgpu(&device, engine.create_buffer(&desc)).expect("the engine's buffer");

    let answer = |device: &Device, buffer: Buffer, encode: bool| {
        let [q, k, v, out] = memory(device, &spec, 40, buffer);
        let plan =
            AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).expect("a plan");
        let constants = LayerConstants::new(device, &spec, Default::default()).expect("no weights");
        let args = AttentionArgs {
            q: &q,
            k: &k,
            v: &v,
            constants: &constants,
            selection: None,
            gate: None,
            out: &out,
            lse: None,
        };
        let mut workspace = Workspace::new(device).expect("memory");
        if encode {
            let mut encoder = engine.create_command_encoder(&Default::default());
            plan.encode(&args, &mut workspace, &mut encoder).expect("encoded");
            assert!(
                out.read_f32().expect("readback").iter().all(|&x| x == 0.0),
                "nothing runs before the engine submits"
            );
            queue.submit([encoder.finish()]);
        } else {
            plan.run(&args, &mut workspace).expect("a run");
        }
        out.read_f32().expect("readback")
    };
    let encoded = answer(&device, owned.clone(), true);
    let run = answer(&device, owned.clone(), false);
    assert_eq!(encoded, run);
    let reference = Device::reference();
    let want = answer(&reference, Buffer::zeros(&reference, bytes).expect("memory"), false);
    let tol = DType::F32.tolerance();
    assert!(encoded.iter().zip(&want).all(|(&g, &w)| tol.accepts(g, w)));

    // Host memory in one argument: refused by name, nothing written.
    let [q, k, v, out] = memory(&device, &spec, 40, owned);
    let plan =
        AttentionPlan::new(&device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).expect("a plan");
    let constants = LayerConstants::new(&device, &spec, Default::default()).expect("no weights");
    let host = Tensor::zeros(&reference, DType::F32, k.shape()).expect("memory");
    let args = AttentionArgs {
        q: &q,
        k: &host,
        v: &v,
        constants: &constants,
        selection: None,
        gate: None,
        out: &out,
        lse: None,
    };
    let mut workspace = Workspace::new(&device).expect("memory");
    let error = plan.run(&args, &mut workspace).expect_err("memory of another device");
    assert!(matches!(error, Error::Invalid { argument: "k", .. }), "{error}");
    let args = AttentionArgs { k: &k, ..args };
    let mut foreign = Workspace::new(&reference).expect("memory");
    let error = plan.run(&args, &mut foreign).expect_err("a workspace of another device");
    assert!(matches!(error, Error::Invalid { argument: "workspace", .. }), "{error}");
}
