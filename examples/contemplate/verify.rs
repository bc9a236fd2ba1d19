//! `--verify`: every attention call once more on the reference device, from the same q, k, v and gate.

use std::time::{Duration, Instant};

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::KvCache;
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights};
use colatent::{DType, Device, Tensor, Workspace};

use crate::Result;
use crate::model::Model;

/// What an element of the output may differ by. Scores reach 32 here (normed heads of 32 lanes, q scale 5.5), where one
/// rounding in f32 is 2e-6; a few of them reach the weights, and the output norm may enlarge what they do ten times.
/// Measured: 2.4e-6.
pub const ALLOWED: f32 = 1e-4;

/// Plans of the step under way on the reference, and the worst error so far.
pub struct Verifier {
    /// Greatest absolute difference of any element of any call.
    pub worst: f32,
    /// Time spent here, which is not the device's.
    pub spent: Duration,
    device: Device,
    constants: Vec<LayerConstants>,
    plans: Vec<AttentionPlan>,
    workspace: Workspace,
}

impl Verifier {
    /// Makes the constants of all layers on the reference.
    pub fn new(model: &Model) -> Result<Self> {
        let device = Device::reference();
        let mut constants = Vec::new();
        for layer in &model.layers {
            constants.push(LayerConstants::new(&device, &model.kinds[layer.kind], LayerWeights::default())?);
        }
        let workspace = Workspace::new(&device)?;
        Ok(Verifier { worst: 0.0, spent: Duration::ZERO, device, constants, plans: Vec::new(), workspace })
    }

    /// Plans the step: one plan per layer kind.
    pub fn plan(&mut self, kinds: &[LayerSpec], cache: &KvCache, rows: &[QueryRows]) -> Result<()> {
        let start = Instant::now();
        self.plans.clear();
        for spec in kinds {
            self.plans.push(AttentionPlan::new(&self.device, &AttentionProblem { spec, cache, rows })?);
        }
        self.spent += start.elapsed();
        Ok(())
    }

    /// Repeats the call of layer `layer` and compares.
    pub fn check(&mut self, layer: usize, kind: usize, args: &AttentionArgs<'_>, got: &[f32]) -> Result<()> {
        let start = Instant::now();
        let host = |t: &Tensor| -> Result<Tensor> {
            Ok(Tensor::from_f32(&self.device, t.dtype(), t.shape(), &t.read_f32()?)?)
        };
        let (q, k, v) = (host(args.q)?, host(args.k)?, host(args.v)?);
        let gate = args.gate.map(host).transpose()?;
        let out = Tensor::zeros(&self.device, DType::F32, args.out.shape())?;
        let args = AttentionArgs {
            q: &q,
            k: &k,
            v: &v,
            constants: &self.constants[layer],
            selection: None,
            gate: gate.as_ref(),
            out: &out,
            lse: None,
        };
        self.plans[kind].run(&args, &mut self.workspace)?;
        for (got, want) in got.iter().zip(out.read_f32()?) {
            let error = (got - want).abs();
            if !error.is_finite() {
                return Err(format!("layer {layer}: attention gave {got}, the reference {want}").into());
            }
            self.worst = self.worst.max(error);
        }
        self.spent += start.elapsed();
        Ok(())
    }
}
