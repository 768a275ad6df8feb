// Random numbers without a state: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
// turns a counter and a key into four words. Thread i makes numbers 4 i to 4 i + 3 of the draw.

struct Words { unsigned at[4]; };

__device__ Words philox(unsigned key0, unsigned key1, unsigned i, unsigned draw)
{
    Words w = {{i, draw, 0, 0}};
    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        unsigned long long a = (unsigned long long)0xD2511F53u * w.at[0], b = (unsigned long long)0xCD9E8D57u * w.at[2];
        w = {{(unsigned)(b >> 32) ^ w.at[1] ^ key0, (unsigned)b, (unsigned)(a >> 32) ^ w.at[3] ^ key1, (unsigned)a}};
    }
    return w;
}

// Uniform in [0, 1)
extern "C" __global__ void uniform(real* y, int key0, int key1, int draw, int numbers, int size)
{
    int i = thread();
    if (i >= size) return;
    Words w = philox(key0, key1, i, draw);
    for (int n = 0; n < 4 && 4 * i + n < numbers; n++) y[4 * i + n] = (w.at[n] >> 8) * (real)(1.0 / 16777216);
}

// Standard normal, by Box and Muller: two uniform numbers give a radius and an angle
extern "C" __global__ void normal(real* y, int key0, int key1, int draw, int numbers, int size)
{
    int i = thread();
    if (i >= size) return;
    Words w = philox(key0, key1, i, draw);
    for (int n = 0; n < 4 && 4 * i + n < numbers; n++) {
        real radius = sqrt(-2 * log((w.at[n / 2 * 2] + (real)0.5) * (real)(1.0 / 4294967296)));
        real angle = w.at[n / 2 * 2 + 1] * (real)(6.283185307179586 / 4294967296);
        y[4 * i + n] = radius * (n % 2 ? sin(angle) : cos(angle));
    }
}

// True with probability 1 - p
extern "C" __global__ void keep(bool* y, int key0, int key1, int draw, real p, int numbers, int size)
{
    int i = thread();
    if (i >= size) return;
    Words w = philox(key0, key1, i, draw);
    for (int n = 0; n < 4 && 4 * i + n < numbers; n++) y[4 * i + n] = w.at[n] * (real)(1.0 / 4294967296) >= p;
}
