//! 4 of 4: inside an engine that owns everything: `wgpu` device, queue, buffers, page layout, command encoder.
//!
//! The crate borrows: it makes no device, copies no cache and submits nothing. The engine's pages are
//! `[page, slot, head, lane]` with K and V of a page side by side in one buffer; a permuted strided view makes them
//! what the operations expect. Both operations are encoded into the engine's encoder, which submits them with
//! whatever else it has recorded.
//!
//! ```text
//! cargo run --example 04_engine_integration
//! ```

#[cfg(not(feature = "webgpu"))]
fn main() {
    println!("This example needs the feature `webgpu`.");
}

#[cfg(feature = "webgpu")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
    use colatent::kv::{KvCache, Modality};
    use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
    use colatent::layer::{LayerConstants, LayerSpec};
    use colatent::{Buffer, DType, Device, Tensor, Workspace, wgpu};

    const PAGES: usize = 8;
    const PAGE_SIZE: usize = 16;
    const ROWS: usize = 50;

    // ---- the engine's side ----
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let Ok(adapter) = pollster::block_on(instance.request_adapter(&Default::default())) else {
        println!("There is no adapter on this machine: nothing to show.");
        return Ok(());
    };
    // The operations need 8 storage buffers per stage and 16 KiB of workgroup memory: WebGPU's defaults.
    let descriptor = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    let (gpu, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    let buffer = |elements: usize| {
        gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("engine"),
            size: elements as u64 * 2, // f16
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };

    // ---- the seam ----
    let device = Device::from_wgpu(gpu.clone(), queue.clone(), &adapter.get_info())?;
    let spec = LayerSpec { dtype: DType::F16, kv_dtype: DType::F16, ..LayerSpec::llama(8, 2, 64, 1e4) };
    let (heads, kv_heads, lanes) = (spec.num_q_heads, spec.num_kv_heads, spec.head_dim);
    let layout = spec.packed();

    // [page, k or v, slot, head, lane]. Strides are in elements; offsets and strides must be multiples of 4.
    let slot = kv_heads * lanes;
    let half = PAGE_SIZE * slot;
    let fused = Buffer::from_wgpu(&device, buffer(PAGES * 2 * half))?;
    let pages = |offset: usize| {
        let shape = [PAGES, PAGE_SIZE, kv_heads, lanes];
        let t = Tensor::with_strides(fused.clone(), spec.kv_dtype, offset, &shape, &[2 * half, slot, lanes, 1])?;
        t.permute(&[0, 2, 1, 3]) // to [page, head, slot, lane]: a view, nothing moves
    };
    let (k, v) = (pages(0)?, pages(half)?);
    let tensor =
        |shape: &[usize]| Tensor::new(Buffer::from_wgpu(&device, buffer(shape.iter().product()))?, spec.dtype, shape);
    let (packed, q, out) =
        (tensor(&[ROWS, layout.width])?, tensor(&[ROWS, heads, lanes])?, tensor(&[ROWS, heads, lanes])?);
    // An engine's projection would have written this on the device.
    packed.write_f32(&(0..packed.len()).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect::<Vec<_>>())?;

    // Two agents over a prompt: 48 tokens and one each, in one step.
    let mut cache = KvCache::new(PAGE_SIZE, PAGES)?;
    let root = cache.create();
    let mut appended = vec![cache.append(root, Modality::Text, ROWS - 2)?];
    for agent in cache.fork_many(root, 2)? {
        appended.push(cache.append(agent, Modality::Text, 1)?);
    }
    let (mut places, mut positions) = (Vec::new(), Vec::new());
    for a in &appended {
        cache.write_places(a, &mut places)?;
        positions.extend((0..a.len as i32).map(|i| [a.first_position + i, 0, 0, 0]));
    }
    let rows: Vec<QueryRows> = appended.into_iter().map(Into::into).collect();

    // Plans are host arithmetic; constants and workspaces are made once and kept.
    let constants = LayerConstants::new(&device, &spec, Default::default())?;
    let (places, positions) = (&places, &positions);
    let problem = KvAppendProblem { spec: &spec, layout, page_size: PAGE_SIZE, num_pages: PAGES, places, positions };
    let append = KvAppendPlan::new(&device, &problem)?;
    let attend = AttentionPlan::new(&device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows })?;
    // One workspace per plan: work that is encoded and not yet submitted still reads its tables.
    let (mut append_space, mut attend_space) = (Workspace::new(&device)?, Workspace::new(&device)?);

    // ---- the engine's encoder ----
    let mut encoder = gpu.create_command_encoder(&Default::default());
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
    append.encode(&args, &mut append_space, &mut encoder)?;
    let args =
        AttentionArgs { q: &q, k: &k, v: &v, constants: &constants, selection: None, gate: None, out: &out, lse: None };
    attend.encode(&args, &mut attend_space, &mut encoder)?;
    queue.submit([encoder.finish()]);

    println!("{append}\n{attend}");
    let answer = out.read_f32()?; // waits
    assert!(answer.iter().all(|x| x.is_finite()) && answer.iter().any(|&x| x != 0.0));
    println!("first lanes of the last agent: {:?}", &answer[answer.len() - lanes..][..4]);
    Ok(())
}
