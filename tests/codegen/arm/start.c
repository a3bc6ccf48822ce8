/* Vector table of a Cortex-M for QEMU: stack and reset; newlib does the rest. */
extern char __stack[];
extern void _start(void);

static void reset(void) {
    _start();
    for (;;) {
    }
}

typedef union vector {
    void *stack;
    void (*handler)(void);
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {.stack = __stack},
    {.handler = reset},
};
