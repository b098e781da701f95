/* Runs a network on QEMU's MPS2 board with a Cortex-M4 (AN386): reads samples from input.bin of the host, prints for each
 * the index of the largest score and how many ticks of 40 instructions it took. */
#include <stdint.h>
#include "network.h"

extern uint32_t _stack, _data_from, _data, _data_end, _bss, _bss_end;
int main(void);

void reset(void)
{
    uint32_t *from = &_data_from;
    for (uint32_t *to = &_data; to < &_data_end;) *to++ = *from++;
    for (uint32_t *to = &_bss; to < &_bss_end;) *to++ = 0;
    main();
    for (;;) {
    }
}

static void fault(void)
{
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    (void (*)(void))&_stack, reset, fault, fault, fault, fault, fault,
};

/* semihosting: open 1, write a text 4, read 6, exit 24 */
static int call(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(uint32_t number, const char *after)
{
    char text[16];
    int at = 15;
    text[at] = 0;
    do {
        text[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    call(4, text + at);
    call(4, after);
}

/* counts down from 2^24 - 1 with the board's clock of 25 MHz; QEMU runs an instruction a nanosecond (-icount shift=0) */
#define SYSTICK ((volatile uint32_t *)0xE000E010)

int main(void)
{
    static uint8_t input[NETWORK_INPUTS];
    static SCORE output[NETWORK_OUTPUTS];
    const char *name = "input.bin";
    const uintptr_t open[3] = {(uintptr_t)name, 1, 9};
    int file = call(1, open);
    for (;;) {
        const uintptr_t read[3] = {(uintptr_t)file, (uintptr_t)input, sizeof input};
        if (call(6, read)) break;
        SYSTICK[1] = 0xffffff;
        SYSTICK[2] = 0;
        SYSTICK[0] = 5;
        uint32_t before = SYSTICK[2];
        network_predict_pixels(input, output);
        uint32_t ticks = (before - SYSTICK[2]) & 0xffffff;
        int best = 0;
        for (int i = 1; i < NETWORK_OUTPUTS; i++)
            if (output[i] > output[best]) best = i;
        print((uint32_t)best, " ");
        print(ticks, "\n");
    }
    call(24, (void *)0x20026);
    return 0;
}
