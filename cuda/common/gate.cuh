// gate.cuh: what multiplies the lanes of a head at the end: sigmoid(g) or softplus(g) = ln(1 + exp(g)), in f32.
// Codes: 0 none; 1 sigmoid, 2 softplus with a gate per element; 3 sigmoid, 4 softplus with one gate per head. After
// prelude.cuh, lse.cuh.

constexpr u32 GATE_NONE = 0;
// The first code with one gate per head.
constexpr u32 GATE_OF_HEAD = 3;

DEVICE f32 gate_factor(u32 code, f32 g) {
    // exp(-g) stays finite; beyond 80 the sigmoid is 1 or below 2e-35 either way.
    const f32 e = exp2_approx(fminf(fmaxf(code % 2 == 1 ? -g : -fabsf(g), -80.0f), 80.0f) * LOG2_E);
    return code % 2 == 1 ? 1.0f / (1.0f + e) : fmaxf(g, 0.0f) + log2f(1.0f + e) * LN_2;
}
