// Dropout, in packs of V numbers.

typedef Pack<number, V> pack;

// keep is true with probability 1 - p; y = x / (1 - p) where keep, else 0
extern "C" __global__ void dropout(const number* x, number* y, bool* keep, const int* generator, int draw, real p,
                                   int size)
{
    int i = thread();
    if (i >= size) return;
    pack z = ((const pack*)x)[i];
    Pack<bool, V> kept;
    Words words;
    for (int v = 0; v < V; v++) {
        unsigned n = (unsigned)i * V + v;
        if (v % 4 == 0) words = philox(generator, n / 4, draw);
        kept.at[v] = words.at[n % 4] * (real)(1.0 / 4294967296) >= p;
        z.at[v] = store(kept.at[v] ? load(z.at[v]) / (1 - p) : 0);
    }
    ((pack*)y)[i] = z;
    ((Pack<bool, V>*)keep)[i] = kept;
}

extern "C" __global__ void dropout_backward(const number* dy, const bool* keep, number* dx, real p, int size)
{
    int i = thread();
    if (i >= size) return;
    pack z = ((const pack*)dy)[i];
    Pack<bool, V> kept = ((const Pack<bool, V>*)keep)[i];
    for (int v = 0; v < V; v++) z.at[v] = store(kept.at[v] ? load(z.at[v]) / (1 - p) : 0);
    ((pack*)dx)[i] = z;
}
