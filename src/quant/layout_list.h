/* Layouts, most compact canonical first: X(name) is src/quant/layout_<name>.c. */
X(int8_row)
X(f8_row)
X(int4_plain)
X(intx)
X(int4_tile_packed)
X(intx_unpacked)
X(quanto_bytes)
X(quanto_bits)
