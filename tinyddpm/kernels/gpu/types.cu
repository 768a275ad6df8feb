// The types of all kernels: every other .cu file is compiled with this text before its own.
//
// -DREAL=float or double is the type of parameters, statistics and sums. -DNARROW says what the arrays between the
// operations hold: 0 reals, 1 bfloat16, 2 float16, 3 reals of which matrix products read ten bits (TF32). -DV is how
// many numbers a thread takes at once. No header is needed. All sums are added in a fixed order, so that a run is
// reproducible bit for bit.

#ifndef V
#define V 1
#endif

typedef REAL real;
#if NARROW == 1 || NARROW == 2
typedef unsigned short number;
#else
typedef real number;
#endif

#if NARROW == 1 && defined(__CUDACC__)
__device__ number bfloat_bits(float x) { number y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
#elif NARROW == 2 && defined(__CUDACC__)
__device__ number half_bits(float x) { number y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
__device__ float of_half_bits(number x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
#endif

#ifdef __CUDACC__
extern __shared__ __align__(16) char dynamic[];                 // as many bytes as a launch asks for
#endif

__device__ number store(real x)
{
#if NARROW == 1
    return bfloat_bits(x);
#elif NARROW == 2
    return half_bits(x);
#else
    return x;
#endif
}

__device__ real load(number x)
{
#if NARROW == 1
    return __uint_as_float((unsigned)x << 16);
#elif NARROW == 2
    return of_half_bits(x);
#else
    return x;
#endif
}

template <typename T, int N> struct alignas(N * sizeof(T)) Pack { T at[N]; };      // N numbers in one memory access

__device__ int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
