// The types of all kernels: every other .cu file is compiled with this text before its own.
//
// -DREAL=float or double is the type of all arrays; -DNARROW=0, 1 or 2 says whether the operands of matrix products
// have that type too, or are bfloat16 or float16. No header is needed; the conversions are written out. All sums are
// added in a fixed order, so that a run is reproducible bit for bit.

typedef REAL real;
#if NARROW
typedef unsigned short operand;
#else
typedef real operand;
#endif

#if NARROW == 2 && defined(__CUDACC__)
__device__ operand half_bits(float x) { operand y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
__device__ float of_half_bits(operand x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
#endif

__device__ operand narrow(real x)
{
#if NARROW == 1
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 64;             // NaN stays NaN
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;                          // to nearest, ties to even
#elif NARROW == 2
    return half_bits(x);
#else
    return x;
#endif
}

__device__ real widen(operand x)
{
#if NARROW == 1
    return __uint_as_float((unsigned)x << 16);
#elif NARROW == 2
    return of_half_bits(x);
#else
    return x;
#endif
}

template <typename T, int V> struct alignas(V * sizeof(T)) Pack { T at[V]; };      // V numbers in one memory access

__device__ int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
