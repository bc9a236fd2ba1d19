// lse.cuh: numbers of logarithms of sums of exponentials. After prelude.cuh.

constexpr f32 LOG2_E = 1.4426950408889634f;
constexpr f32 LN_2 = 0.6931471805599453f;
// Below every score; what stands for the lse of an empty state in the arithmetic.
constexpr f32 NOTHING = -1e30f;
