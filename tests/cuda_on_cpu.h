// Enough of CUDA to compile gpu.cu as C++ and run it on a CPU, block after block. The threads of a block that share
// memory are coroutines, which take turns at __syncthreads.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <csetjmp>
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
static char stacks[1024][STACK];
static jmp_buf scheduler, coroutine[1024];
static bool started[1024], done[1024];
static int current, apart;                  // apart: 1 where the threads are coroutines
static void (*body)(void**);
static void** arguments;

static void pause() { if (!_setjmp(coroutine[current])) _longjmp(scheduler, 1); }

static void __syncthreads()
{
    if (!apart) { fprintf(stderr, "__syncthreads in a kernel without shared memory\n"); abort(); }
    pause();
}

static void live() { for (;;) { body(arguments); done[current] = true; pause(); } }

static void resume(int i)
{
    current = i, threadIdx.x = i % blockDim.x, threadIdx.y = i / blockDim.x;
    if (!apart) { body(arguments); done[i] = true; return; }
    if (_setjmp(scheduler)) return;
    if (started[i]) _longjmp(coroutine[i], 1);
    ucontext_t first;
    getcontext(&first);
    first.uc_stack.ss_sp = stacks[i], first.uc_stack.ss_size = STACK, first.uc_link = 0;
    makecontext(&first, live, 0);
    started[i] = true;
    setcontext(&first);
}

static void launch(void (*kernel)(void**), void** given, int gx, int gy, int bx, int by, int shared)
{
    body = kernel, arguments = given, apart = shared, blockDim.x = bx, blockDim.y = by;
    for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++) for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++) {
        for (int i = 0; i < bx * by; i++) done[i] = false;
        for (bool left = true; left;) {
            left = false;
            for (int i = 0; i < bx * by; i++) if (!done[i]) { resume(i); left |= !done[i]; }
        }
    }
}
