// Random numbers without a state: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
// turns a counter, here i and the number of the draw, and a key into four words.

struct Words { unsigned at[4]; };

// generator: the key, and how many draws there were before; see random.py
__device__ Words philox(const int* generator, unsigned i, int draw)
{
    unsigned key0 = generator[0], key1 = generator[1];
    Words w = {{i, (unsigned)(generator[2] + draw), 0, 0}};
    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        unsigned long long a = (unsigned long long)0xD2511F53u * w.at[0], b = (unsigned long long)0xCD9E8D57u * w.at[2];
        w = {{(unsigned)(b >> 32) ^ w.at[1] ^ key0, (unsigned)b, (unsigned)(a >> 32) ^ w.at[3] ^ key1, (unsigned)a}};
    }
    return w;
}
