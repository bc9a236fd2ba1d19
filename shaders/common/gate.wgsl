// gate.wgsl: what multiplies the lanes of a head at the end: sigmoid(g) or softplus(g) = ln(1 + exp(g)), in f32.
// Codes: 0 none; 1 sigmoid, 2 softplus with a gate per element; 3 sigmoid, 4 softplus with one gate per head.

const GATE_NONE = 0u;
// The first code with one gate per head.
const GATE_OF_HEAD = 3u;

fn gate_factor(code: u32, g: vec4<f32>) -> vec4<f32> {
    if (code & 1u) == 1u {
        // exp(-g) stays finite; beyond 80 the result is 1 or below 2e-35 either way.
        return 1.0 / (1.0 + exp2(clamp(-g, vec4<f32>(-80.0), vec4<f32>(80.0)) * LOG2_E));
    }
    return max(g, vec4<f32>(0.0)) + log2(1.0 + exp2(-abs(g) * LOG2_E)) * LN_2;
}
