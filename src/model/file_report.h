/* file_report.h: quant_report.json of a plan whose work is done. */
#ifndef NIB_MODEL_FILE_REPORT_H
#define NIB_MODEL_FILE_REPORT_H
#include "model/file_plan.h"

nib_status nib_file_report_text(const nib_file_plan *plan, nib_text *out);
#endif
