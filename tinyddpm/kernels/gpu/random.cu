// Random numbers: thread i makes numbers 4 i to 4 i + 3 of a draw.

// Uniform in [0, 1)
extern "C" __global__ void uniform(real* y, const int* generator, int draw, int numbers, int size)
{
    int i = thread();
    if (i >= size) return;
    Words w = philox(generator, i, draw);
    for (int n = 0; n < 4 && 4 * i + n < numbers; n++) y[4 * i + n] = (w.at[n] >> 8) * (real)(1.0 / 16777216);
}

// Standard normal, by Box and Muller: two uniform numbers give a radius and an angle
extern "C" __global__ void normal(real* y, const int* generator, int draw, int numbers, int size)
{
    int i = thread();
    if (i >= size) return;
    Words w = philox(generator, i, draw);
    for (int n = 0; n < 4 && 4 * i + n < numbers; n++) {
        real radius = sqrt(-2 * log((w.at[n / 2 * 2] + (real)0.5) * (real)(1.0 / 4294967296)));
        real angle = w.at[n / 2 * 2 + 1] * (real)(6.283185307179586 / 4294967296);
        y[4 * i + n] = radius * (n % 2 ? sin(angle) : cos(angle));
    }
}
