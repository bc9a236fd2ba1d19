//! Verification of blocks and trees of drafts, beside the launch of an empty batch: what is left is the walk.

use colatent::verify::{DraftTree, VerifyArgs, VerifyPlan, VerifyProblem};
use colatent::{Buffer, Device, Workspace};
use criterion::{Criterion, criterion_group, criterion_main};

/// Name, sequences, drafts of each, children at a place.
const SHAPES: &[(&str, u32, u32, u32)] = &[("blocks_64x16", 64, 16, 1), ("trees_64x63", 64, 63, 2)];

fn bench(c: &mut Criterion) {
    let device = Device::detect();
    let mut group = c.benchmark_group("verify");
    group.sample_size(20);
    for &(name, sequences, drafts, children) in SHAPES {
        let tree =
            |s: u32| DraftTree { first_row: s * (drafts + 1), parents: (0..drafts).map(|i| i / children).collect() };
        let trees: Vec<DraftTree> = (0..sequences).map(tree).collect();
        let rows = (sequences * (drafts + 1)) as usize;
        let plan = VerifyPlan::new(&device, &VerifyProblem { trees: &trees, rows }).expect("a valid problem");
        // Zeros everywhere: every first child is accepted.
        let zeros = |bytes| Buffer::zeros(&device, bytes).expect("memory");
        let (sampled, tokens, out) = (zeros(rows * 16), zeros(rows * 4), zeros(plan.output_bytes()));
        let args = VerifyArgs { sampled: &sampled, drafts: &tokens, out: &out };
        let mut workspace = Workspace::new(&device).expect("an empty workspace");
        group.bench_function(name, |b| {
            b.iter(|| {
                plan.run(&args, &mut workspace).expect("a run");
                device.synchronize().expect("a device that lives");
            })
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
