// Dropout, in packs of V numbers.

// y = scale x where `keep`, else 0
extern "C" __global__ void dropout(const number* x, const bool* keep, number* y, real scale, int size)
{
    int i = thread();
    if (i >= size) return;
    Pack<number, V> z = ((const Pack<number, V>*)x)[i];
    Pack<bool, V> kept = ((const Pack<bool, V>*)keep)[i];
    for (int v = 0; v < V; v++) z.at[v] = store(kept.at[v] ? scale * load(z.at[v]) : 0);
    ((Pack<number, V>*)y)[i] = z;
}
