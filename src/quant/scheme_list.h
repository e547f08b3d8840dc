/* Schemes: X(name) is src/quant/schemes/scheme_<name>.c and nib_scheme_<name>. */
X(int8_weight_only)
X(int4_weight_only)
X(intx_weight_only)
X(float8_weight_only)
X(int8_dynamic_activation_int8_weight)
X(int8_dynamic_activation_int4_weight)
X(quanto)
