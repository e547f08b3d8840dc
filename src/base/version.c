#include <nibble/nibble.h>

const char *nib_version(void) { return NIB_VERSION; }
