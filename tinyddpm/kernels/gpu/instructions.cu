// The instructions that C++ has no words for: copies that do not wait, and the products of a GPU's tensor cores.
//
// A thread of a warp, with lane = its number, holds of a 16x16 matrix on the left the rows lane / 4 and lane / 4 + 8,
// of a 16x8 matrix on the right the column lane / 4, and of a 16x8 result the rows as on the left and the columns
// lane % 4 * 2 and the next. tests/cuda_on_cpu.h says the same in C++.

#ifdef __CUDACC__
#define INLINE __device__ __forceinline__

INLINE unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Copy 16 bytes from global to shared memory without waiting, or write zeros there; close a group of copies; wait until
// no more than N groups are under way
#if __CUDA_ARCH__ < 800
INLINE void copy_async(void* to, const void* from, bool there)
{
    *(uint4*)to = there ? *(const uint4*)from : uint4();
}
INLINE void commit_copies() {}
template <int N> INLINE void wait_for_copies() {}
#else
INLINE void copy_async(void* to, const void* from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0));
}
INLINE void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int N> INLINE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(N)); }
#endif

// Four 8x8 matrices of 16-bit numbers, of which each thread names a row of 16 bytes, spread over the warp for mma
INLINE void load_matrices(unsigned* r, const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}

INLINE void load_transposed(unsigned* r, const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}

// c (16, 8) += a (16, 16) b (16, 8) by a warp; a depth of 8 for TF32
#if NARROW == 3
INLINE unsigned to_tf32(float x) { unsigned y; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x)); return y; }
#define KIND "m16n8k8.row.col.f32.tf32.tf32"
#elif NARROW == 2
#define KIND "m16n8k16.row.col.f32.f16.f16"
#define GROUP_KIND "f16.f16"
#else
#define KIND "m16n8k16.row.col.f32.bf16.bf16"
#define GROUP_KIND "bf16.bf16"
#endif
INLINE void multiply_add(float* c, const unsigned* a, const unsigned* b)
{
    asm volatile("mma.sync.aligned." KIND ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && (NARROW == 1 || NARROW == 2)
#define WGMMA 1
// Hopper's products run by themselves: before they read shared memory, before registers, the end of a group of them
INLINE void begin_products() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
INLINE void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> INLINE void wait_for_products()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

#define C4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
// c (64, 8 N) += a (64, 16) b (16, 8 N) by four warps, a in registers, b in shared memory as the descriptor says
template <bool ACROSS> INLINE void group_multiply_add(float (&c)[8][4], const unsigned* a, unsigned long long b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." GROUP_KIND " "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
                 "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
                 : C4(0), C4(1), C4(2), C4(3), C4(4), C4(5), C4(6), C4(7)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ACROSS));
}
template <bool ACROSS> INLINE void group_multiply_add(float (&c)[16][4], const unsigned* a, unsigned long long b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." GROUP_KIND " "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
                 "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
                 "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "
                 "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, %69;"
                 : C4(0), C4(1), C4(2), C4(3), C4(4), C4(5), C4(6), C4(7), C4(8), C4(9), C4(10), C4(11), C4(12),
                   C4(13), C4(14), C4(15)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ACROSS));
}
#else
INLINE void begin_products() {}
INLINE void fence_products() {}
INLINE void commit_products() {}
template <int N> INLINE void wait_for_products() {}
#endif
#endif
