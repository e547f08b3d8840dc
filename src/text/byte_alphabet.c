#include "text/byte_alphabet.h"

/* The bytes that have no character of their own, 68 of them: 0-32, 127-160 and 173. */
static int32_t character(unsigned char byte) {
    if (byte <= 32) return 0x100 + byte;
    if (byte >= 127 && byte <= 160) return 0x100 + 33 + (byte - 127);
    if (byte == 173) return 0x100 + 67;
    return byte;
}

void nib_byte_alphabet_encode(const char *bytes, size_t length, nib_text *out) {
    char buffer[256];
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        const int32_t code = character((unsigned char)bytes[i]);
        if (n + 2 > sizeof buffer) {
            nib_text_append(out, buffer, n);
            n = 0;
        }
        if (code < 0x80) {
            buffer[n++] = (char)code;
        } else {
            buffer[n++] = (char)(0xC0 | code >> 6);
            buffer[n++] = (char)(0x80 | (code & 63));
        }
    }
    nib_text_append(out, buffer, n);
}

int nib_byte_alphabet_decode(int32_t code) {
    if (code < 0x100) return character((unsigned char)code) == code ? code : -1;
    const int32_t i = code - 0x100;
    if (i <= 32) return i;
    if (i <= 66) return 127 + (i - 33);
    return i == 67 ? 173 : -1;
}
