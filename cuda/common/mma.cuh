// mma.cuh: tensor-core products of a warp and the loads of their operands. After prelude.cuh. sm_80 and up.
// Lane l has group g = l / 4 and pair t = l % 4. Fragments of c[16][8] += a[16][16] b[16][8], two elements a word:
//   a[0] a(g, 2t..2t+1)   a[1] a(g+8, 2t..)   a[2] a(g, 2t+8..)   a[3] a(g+8, 2t+8..)
//   b0   b(2t..2t+1, g)   b1   b(2t+8.., g)
//   c[0] c(g, 2t)         c[1] c(g, 2t+1)     c[2] c(g+8, 2t)     c[3] c(g+8, 2t+1)      f32

#ifndef COLATENT_SIM

// Four 8 x 8 matrices of 16-bit elements. Lane l gives the address (a multiple of 16) of row l % 8 of matrix l / 8;
// r[q] is row g, elements 2t and 2t+1 of matrix q.
DEVICE void load_matrix_x4(u32 (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(u32(__cvta_generic_to_shared(shared_row)))
                 : "memory");
}

// The same with each matrix transposed: r[q] is column g, elements 2t and 2t+1 of matrix q.
DEVICE void load_matrix_x4_transposed(u32 (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(u32(__cvta_generic_to_shared(shared_row)))
                 : "memory");
}

// The first argument is a tag: mma_16x8x16(bf16{}, c, a, b0, b1).
DEVICE void mma_16x8x16(f16, f32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE void mma_16x8x16(bf16, f32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
