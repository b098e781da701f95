/* Predicts samples of input.bin on this machine and prints for each the index of the largest score and nanoseconds. */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include "network.h"

int main(void)
{
    static uint8_t input[NETWORK_INPUTS];
    static SCORE output[NETWORK_OUTPUTS];
    FILE *file = fopen("input.bin", "rb");
    while (file && fread(input, 1, NETWORK_INPUTS, file) == NETWORK_INPUTS) {
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        network_predict_pixels(input, output);
        clock_gettime(CLOCK_MONOTONIC, &after);
        int best = 0;
        for (int i = 1; i < NETWORK_OUTPUTS; i++)
            if (output[i] > output[best]) best = i;
        printf("%d %ld\n", best, (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec);
    }
    return 0;
}
