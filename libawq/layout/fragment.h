/* Marlin's order of codes: how a tile of 16 outputs by 16 inputs lies in the words of the 32 lanes of a warp, so that
 * each lane loads just its part of a tensor core's operand.
 *
 * Lane l holds, of outputs l / 4 and l / 4 + 8, inputs 2 (l % 4) + 0, 1, 8 and 9: with 4 bits in one word, with 8 bits
 * in one word for each output. */
#ifndef AWQI_FRAGMENT_H
#define AWQI_FRAGMENT_H

#include <stdint.h>

/* The element, of the eight in the order above, that a field holds; with 8 bits, of the four of its word.  Shifts by 0,
 * 4, 8 and 12, or by 0 and 8, leave neighbouring elements in the two halves. */
static const uint8_t awqi_fragment_order_4[8] = {0, 2, 4, 6, 1, 3, 5, 7};
static const uint8_t awqi_fragment_order_8[4] = {0, 2, 1, 3};

/* Where element 'v' of a lane lies in a tile of codes, one per byte, whose outputs are 'stride' apart. */
static inline int64_t awqi_fragment_element(int lane, int v, int64_t stride)
{
    return (lane / 4 + 8 * (v / 4)) * stride + 2 * (lane % 4) + v % 2 + 8 * (v / 2 % 2);
}

/* The bits / 4 words of a lane. */
static inline void awqi_fragment_pack(int32_t bits, const uint8_t *codes, int64_t stride, int lane, uint32_t *words)
{
    if (bits == 4) {
        uint32_t word = 0;
        for (int i = 0; i < 8; i++)
            word |= (uint32_t)codes[awqi_fragment_element(lane, awqi_fragment_order_4[i], stride)] << (4 * i);
        *words = word;
        return;
    }
    for (int h = 0; h < 2; h++) {
        uint32_t word = 0;
        for (int i = 0; i < 4; i++)
            word |= (uint32_t)codes[awqi_fragment_element(lane, 4 * h + awqi_fragment_order_8[i], stride)] << (8 * i);
        words[h] = word;
    }
}

/* And back, from words 'step' apart. */
static inline void awqi_fragment_unpack(int32_t bits, const uint32_t *words, int64_t step, uint8_t *codes,
                                        int64_t stride, int lane)
{
    if (bits == 4) {
        for (int i = 0; i < 8; i++)
            codes[awqi_fragment_element(lane, awqi_fragment_order_4[i], stride)] = *words >> (4 * i) & 15;
        return;
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 4; i++)
            codes[awqi_fragment_element(lane, 4 * h + awqi_fragment_order_8[i], stride)] =
                (uint8_t)(words[h * step] >> (8 * i));
}

#endif /* AWQI_FRAGMENT_H */
