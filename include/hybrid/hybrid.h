/* hybrid.h - everything: the umbrella header of libhybrid. */
#ifndef HYBRID_HYBRID_H
#define HYBRID_HYBRID_H

#include <hybrid/base.h>
#include <hybrid/cluster.h>
#include <hybrid/codec.h>
#include <hybrid/compress.h>
#include <hybrid/cuda.h>
#include <hybrid/features.h>
#include <hybrid/file.h>
#include <hybrid/language_model.h>
#include <hybrid/limits.h>
#include <hybrid/matmul.h>
#include <hybrid/mlp.h>
#include <hybrid/optimize.h>
#include <hybrid/quantize.h>
#include <hybrid/tokenizer.h>

#endif /* HYBRID_HYBRID_H */
