//! The primitives of the CUDA kernels, one by one, on equal inputs on a device and on the simulated one.
//!
//! The simulated device is checked against plain definitions in C++ (`scripts/sanitize`). Here its answers are written
//! down (`COLATENT_WRAPPERS=FILE`, a new file) and a GPU's are compared with them (the same, once it is there), bit for bit
//! but for exp2 and the matrix products, which the hardware sums in an order of its own.
//! Planted and seen red: two rows of a matrix product swapped in the simulated device, with answers written before.
#![cfg(feature = "cuda")]
mod harness;

use colatent::{Buffer, Device};
use harness::{Rng, devices};

const CASES: usize = 8;
const THREADS: usize = 64;
const INPUT_WORDS: usize = 12;
const OUTPUT_WORDS: usize = 4;
/// `sizeof(Shared)` of the kernel.
const SHARED_BYTES: usize = 2 * 64 * 16 + 16;

/// In the order of `cuda/test/wrappers.cu`, with how far an f32 answer may be off, relative to its size or to 1.
const PRIMITIVES: [(&str, f32); 21] = [
    // 16 products summed in f32 in any order, of numbers up to 2: 16 * 2^-24 of a sum of magnitudes up to 66.
    ("mma f16", 6.3e-5),
    ("mma bf16", 6.3e-5),
    ("load_matrix_x4", 0.0),
    ("load_matrix_x4_transposed", 0.0),
    ("copy_async_16", 0.0),
    ("copy_async_wait", 0.0),
    ("shuffle_xor", 0.0),
    ("shuffle", 0.0),
    ("shuffle_up", 0.0),
    ("shuffle_down", 0.0),
    ("ballot", 0.0),
    ("warp_sum, warp_max", 0.0),
    // 2 ulp, and the host's own half.
    ("exp2_approx", 3.6e-7),
    ("from_f32 f16", 0.0),
    ("from_f32 bf16", 0.0),
    ("to_f32", 0.0),
    ("chunks", 0.0),
    ("integers", 0.0),
    ("floats", 0.0),
    ("atomics", 0.0),
    ("__syncthreads_or", 0.0),
];

/// The kernel with its includes, each once.
fn source() -> String {
    const HEADERS: [(&str, &str); 5] = [
        ("common/prelude.cuh", include_str!("../cuda/common/prelude.cuh")),
        ("common/warp.cuh", include_str!("../cuda/common/warp.cuh")),
        ("common/async.cuh", include_str!("../cuda/common/async.cuh")),
        ("common/mma.cuh", include_str!("../cuda/common/mma.cuh")),
        ("common/dtype.cuh", include_str!("../cuda/common/dtype.cuh")),
    ];
    expanded(include_str!("../cuda/test/wrappers.cu"), &HEADERS)
}

fn expanded(kernel: &str, headers: &[(&str, &str)]) -> String {
    let mut text = kernel.to_string();
    for (name, header) in headers {
        text = text.replace(&format!("// #include \"{name}\""), header);
    }
    assert!(!text.contains("// #include \""), "a header is not listed here");
    format!("typedef float f32;\n{text}")
}

/// A number between -2 and 2.
fn small(rng: &mut Rng) -> f32 {
    (rng.next() >> 40) as f32 / (1 << 22) as f32 - 2.0
}

/// Words that the primitive accepts, other words random.
fn input(primitive: usize) -> Vec<u32> {
    let mut rng = Rng(primitive as u64);
    let mut words: Vec<u32> = (0..CASES * THREADS * INPUT_WORDS).map(|_| rng.next() as u32).collect();
    for thread in words.chunks_exact_mut(INPUT_WORDS) {
        match primitive {
            0 | 1 => {
                let bits = |x: f32| match primitive {
                    0 => half::f16::from_f32(x).to_bits(),
                    _ => half::bf16::from_f32(x).to_bits(),
                };
                for word in &mut thread[..6] {
                    *word = u32::from(bits(small(&mut rng))) | u32::from(bits(small(&mut rng))) << 16;
                }
                thread[6..10].iter_mut().for_each(|w| *w = small(&mut rng).to_bits());
            }
            2 | 3 => thread[4] %= 32,
            4 => thread[4] %= 2,
            6..10 => thread[1] %= 32,
            10 | 20 => thread[..3].iter_mut().for_each(|w| *w = u32::from(*w % 40 == 0)),
            11 => thread[0] = small(&mut rng).to_bits(),
            12 => thread[0] = (small(&mut rng) * 60.0).to_bits(),
            _ => {}
        }
    }
    words
}

fn run(device: &Device, primitive: usize) -> Vec<u32> {
    let input = input(primitive);
    let zeros = |words: usize| Buffer::zeros(device, words * 4).unwrap();
    let (source_buffer, output) = (zeros(input.len()), zeros(CASES * THREADS * OUTPUT_WORDS));
    source_buffer.write(0, bytemuck::cast_slice(&input)).unwrap();
    let params = [primitive as u32, 0];
    let buffers = [&source_buffer, &output, &zeros(2 * CASES)];
    let launch = (CASES, THREADS, SHARED_BYTES);
    colatent::launch_text(device, ("wrappers", &source()), launch, bytemuck::cast_slice(&params), &buffers).unwrap();
    let bytes = output.read().unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).take(CASES * THREADS * OUTPUT_WORDS).collect()
}

/// In the order of `cuda/test/wrappers_sm90.cu`, with the words that a block answers: 4 per thread, or columns of 64 rows.
/// Numbers of products are multiples of 1/64 that any order of sums gives exactly.
const HOPPER: [(&str, usize); 12] = [
    ("mbarrier", 0),
    ("copy_async_arrive", 0),
    ("copy_box", 0),
    ("wgmma shared 64", 64),
    ("wgmma shared 96", 96),
    ("wgmma shared 128", 128),
    ("wgmma shared 128, 32-byte atoms", 128),
    ("wgmma registers 64", 64),
    ("wgmma registers 64, 32-byte atoms", 64),
    ("wgmma registers 96", 96),
    ("wgmma registers 128", 128),
    ("wgmma registers 256", 256),
];

/// Answers of the primitives that only Hopper has, for f16 and bf16.
fn run_hopper(device: &Device, primitive: usize, is_bf16: bool) -> Vec<u32> {
    const BLOCKS: usize = 2;
    const SHARED_BYTES: usize = 64 * 128 + 256 * 128 + 2 * 128 * 4 + 8;
    let (elements, sums) = ((64 + 256) * 64, 64 * 256);
    let mut rng = Rng(100 + primitive as u64);
    let mut eighths = || (rng.next() % 33) as f32 / 8.0 - 2.0;
    let mut input: Vec<u32> = Vec::new();
    for _ in 0..BLOCKS {
        let mut bits = || match is_bf16 {
            true => half::bf16::from_f32(eighths()).to_bits(),
            false => half::f16::from_f32(eighths()).to_bits(),
        };
        input.extend((0..elements / 2).map(|_| u32::from(bits()) | u32::from(bits()) << 16));
        input.extend((0..sums).map(|_| (eighths() * 8.0).to_bits()));
    }
    let zeros = |words: usize| Buffer::zeros(device, words * 4).unwrap();
    let (source_buffer, output) = (zeros(input.len()), zeros(BLOCKS * sums));
    source_buffer.write(0, bytemuck::cast_slice(&input)).unwrap();
    const HEADERS: [(&str, &str); 5] = [
        ("common/prelude.cuh", include_str!("../cuda/common/prelude.cuh")),
        ("common/async.cuh", include_str!("../cuda/common/async.cuh")),
        ("common/mbarrier.cuh", include_str!("../cuda/common/mbarrier.cuh")),
        ("common/bulk.cuh", include_str!("../cuda/common/bulk.cuh")),
        ("common/wgmma.cuh", include_str!("../cuda/common/wgmma.cuh")),
    ];
    let source = expanded(include_str!("../cuda/test/wrappers_sm90.cu"), &HEADERS);
    let map = colatent::tensor_map_of_rows(device, &source_buffer, 20, 16).unwrap();
    let params = [&map[..], bytemuck::cast_slice(&[primitive as u32, u32::from(is_bf16)])].concat();
    let launch = (BLOCKS, 128, SHARED_BYTES);
    let buffers = [&source_buffer, &output];
    colatent::launch_text(device, ("wrappers_sm90", &source), launch, &params, &buffers).unwrap();
    let words: Vec<u32> = output.read().unwrap().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    match HOPPER[primitive].1 {
        0 => words.chunks(sums).take(BLOCKS).flat_map(|b| b[..128 * 4].to_vec()).collect(),
        columns => words[..BLOCKS * sums].chunks(256).flat_map(|row| row[..columns].to_vec()).collect(),
    }
}

/// Those of Hopper are recorded in the same way, in `COLATENT_WRAPPERS` with `.sm90` behind it.
#[test]
fn hoppers_wrappers_answer_as_the_simulated_device() {
    let file = std::env::var("COLATENT_WRAPPERS").ok().map(|f| format!("{f}.sm90"));
    for device in devices() {
        if !device.to_string().contains("sm_90a") {
            continue;
        }
        let answers = |p: usize| [false, true].map(|is_bf16| run_hopper(device, p, is_bf16)).concat();
        let all = || (0..HOPPER.len()).map(answers).collect::<Vec<_>>();
        match (device.kind(), &file) {
            ("cuda-sim-90", Some(file)) if !std::path::Path::new(file).exists() => {
                std::fs::write(file, bytemuck::cast_slice(&all().concat())).unwrap();
            }
            ("cuda-sim-90", None) => assert_eq!(all(), all()),
            (_, Some(file)) => {
                let recorded = std::fs::read(file).unwrap();
                let mut recorded = recorded.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
                let mut wrong = Vec::new();
                for ((name, _), got) in HOPPER.iter().zip(all()) {
                    let want: Vec<u32> = recorded.by_ref().take(got.len()).collect();
                    assert_eq!(want.len(), got.len(), "answers of {name}");
                    let first = got.iter().zip(&want).position(|(g, w)| g != w);
                    wrong.extend(first.map(|i| format!("{name}: word {i}: {:08x}, simulated {:08x}", got[i], want[i])));
                }
                assert!(wrong.is_empty(), "{}", wrong.join("\n"));
            }
            _ => {}
        }
    }
}

/// One NaN is as good as another: a GPU makes 0x7fffffff of any, the host keeps payloads.
fn is_close(got: u32, want: u32, tolerance: f32) -> bool {
    let (g, w) = (f32::from_bits(got), f32::from_bits(want));
    got == want || (g.is_nan() && w.is_nan()) || (tolerance > 0.0 && (g - w).abs() <= tolerance * w.abs().max(1.0))
}

#[test]
fn wrappers_answer_as_the_simulated_device() {
    let file = std::env::var_os("COLATENT_WRAPPERS");
    for device in devices() {
        let answers = || -> Vec<Vec<u32>> { (0..PRIMITIVES.len()).map(|p| run(device, p)).collect() };
        match (device.kind(), &file) {
            ("cuda-sim", Some(file)) if !std::path::Path::new(file).exists() => {
                let all = answers().concat();
                std::fs::write(file, bytemuck::cast_slice(&all)).unwrap();
            }
            // Orders of blocks and warps change from launch to launch, answers do not.
            ("cuda-sim", None) => assert_eq!(answers(), answers()),
            ("cuda" | "cuda-sim", Some(file)) => {
                let recorded = std::fs::read(file).unwrap();
                let mut recorded = recorded.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
                let mut wrong = Vec::new();
                for ((name, tolerance), got) in PRIMITIVES.iter().zip(answers()) {
                    let want: Vec<u32> = recorded.by_ref().take(got.len()).collect();
                    assert_eq!(want.len(), got.len(), "answers of {name}");
                    let first = got.iter().zip(&want).position(|(&g, &w)| !is_close(g, w, *tolerance));
                    wrong.extend(first.map(|i| format!("{name}: word {i}: {:08x}, simulated {:08x}", got[i], want[i])));
                }
                assert!(wrong.is_empty(), "{}", wrong.join("\n"));
            }
            _ => {}
        }
    }
}
