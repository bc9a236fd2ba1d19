//! The WebGPU part: variants, launches. Per round one launch over slices and one over rows.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::LmHeadPlan;
use super::problem::LmHeadArgs;
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::{DType, Result, Workspace};

/// Rows of a workgroup: their logits are registers of its lanes.
const ROWS: usize = 4;

fn project(hidden: DType, weight: DType, [soft_cap, has_steps]: [bool; 2]) -> Variant {
    Variant::new("lm_head")
        .u32("ROWS", ROWS)
        .bool("SOFT_CAP", soft_cap)
        .bool("HAS_STEPS", has_steps)
        .storage("hidden", hidden)
        .storage("weight", weight)
}

fn combine([soft_cap, has_steps]: [bool; 2]) -> Variant {
    Variant::new("lm_head_combine").bool("SOFT_CAP", soft_cap).bool("HAS_STEPS", has_steps)
}

/// All of them.
pub(super) fn variants() -> Vec<(String, String)> {
    let mut all: Vec<Variant> = [[false, true], [true, false]].map(combine).to_vec();
    for (hidden, weight) in DType::ALL.into_iter().flat_map(|h| DType::ALL.map(|w| (h, w))) {
        all.extend([false, true].map(|cap| project(hidden, weight, [cap, cap != (hidden == weight)])));
    }
    all.iter().map(|v| (format!("{} {}", v.kernel, v.options()), v.wgsl())).collect()
}

pub(super) fn encode(
    plan: &LmHeadPlan,
    gpu: &Arc<Gpu>,
    args: &LmHeadArgs,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let hidden = args.hidden.buffer().on(gpu, OP, "hidden")?;
    let weight = args.weight.buffer().on(gpu, OP, "weight")?;
    let out = args.out.on(gpu, OP, "out")?;
    let places = (chunks(OP, "hidden", args.hidden)?, chunks(OP, "weight", args.weight)?);
    let problem = &plan.problem;
    let options = [problem.soft_cap.is_some(), plan.steps.is_some()];
    if plan.table.is_empty() {
        return Ok(());
    }
    use Access::{Read, ReadWrite};
    let project = project(problem.hidden_dtype, problem.weight_dtype, options);
    let project = gpu.kernel(&project, &[Read, Read, Read, ReadWrite, Read])?;
    let combine = gpu.kernel(&combine(options), &[Read, ReadWrite, ReadWrite, Read])?;
    let tables = || bytemuck::cast_slice(&plan.table).to_vec();
    let space = workspace.load(OP, gpu, plan.id, plan.scratch_bytes(), tables)?;
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().on(gpu, OP, "steps")?,
        None => &space.absent[0],
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    for round in 0..plan.rounds {
        let params = Params::new(plan, round, places.0, places.1);
        let params = bytemuck::bytes_of(&params);
        let launch = Launch {
            kernel: &project,
            params,
            buffers: &[&space.tables, hidden, weight, &space.scratch, steps],
            groups: plan.slices() * problem.rows.len().div_ceil(ROWS),
        };
        gpu.encode(&mut space.bindings, &mut pass, &launch)?;
        let launch = Launch {
            kernel: &combine,
            params,
            buffers: &[&space.tables, &space.scratch, out, steps],
            groups: problem.rows.len(),
        };
        gpu.encode(&mut space.bindings, &mut pass, &launch)?;
    }
    Ok(())
}
