// Enough of CUDA to compile gpu.cu as C++ and run it on a CPU, block after block. The threads of a block that share
// memory are coroutines, which take turns at __syncthreads.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

using std::exp; using std::fabs; using std::sqrt;
#define __device__
#define __global__
#define __shared__ static

static struct { int x, y; } threadIdx, blockIdx, blockDim;

static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }

static inline unsigned short half_bits(float x)
{
    unsigned short sign = __float_as_uint(x) >> 31 << 15;
    x = fabs(x);
    if (x != x) return sign | 0x7e00;
    if (x >= 65520) return sign | 0x7c00;
    if (x < 6.103515625e-5f) return sign | (unsigned short)nearbyintf(x * 16777216);         // subnormal: units of 2^-24
    unsigned bits = __float_as_uint(x);
    return sign | ((bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13);
}

static inline float of_half_bits(unsigned short h)
{
    float sign = h >> 15 ? -1.0f : 1.0f;
    int exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24));
}

static const int STACK = 1 << 14;
static ucontext_t scheduler, coroutine[1024];
static char stacks[1024][STACK];
static bool done[1024];
static int current, apart;                  // apart: 1 where the threads are coroutines
static void (*body)(void**);
static void** arguments;

static void __syncthreads()
{
    if (!apart) { fprintf(stderr, "__syncthreads in a kernel without shared memory\n"); abort(); }
    swapcontext(&coroutine[current], &scheduler);
}

static void run_thread() { body(arguments); done[current] = true; }

static void turn(int i) { current = i; threadIdx.x = i % blockDim.x; threadIdx.y = i / blockDim.x; }

static void launch(void (*kernel)(void**), void** given, int gx, int gy, int bx, int by, int shared)
{
    body = kernel, arguments = given, apart = shared, blockDim.x = bx, blockDim.y = by;
    for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++) for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++) {
        if (!apart) { for (int i = 0; i < bx * by; i++) { turn(i); body(arguments); } continue; }
        for (int i = 0; i < bx * by; i++) {
            done[i] = false;
            getcontext(&coroutine[i]);
            coroutine[i].uc_stack.ss_sp = stacks[i], coroutine[i].uc_stack.ss_size = STACK, coroutine[i].uc_link = &scheduler;
            makecontext(&coroutine[i], run_thread, 0);
        }
        for (bool left = true; left;) {
            left = false;
            for (int i = 0; i < bx * by; i++) if (!done[i]) { turn(i); swapcontext(&scheduler, &coroutine[i]); left |= !done[i]; }
        }
    }
}
