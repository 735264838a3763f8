// From fp32 activations to int8.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/quantise/quantised_rows.h"

namespace internvl {

struct QuantiseKernels {
  // Quantises one row of k elements, as QuantisedRows describes it: values [k rounded up to quantised_step],
  // scales and starts [groups]. A group that holds a NaN or an infinity gets NaN for its scale, so that every
  // result it enters is NaN; one whose magnitudes are all below 2^-100 is zero.
  using Quantise = void (*)(const float* x, std::size_t k, std::int8_t* values, float* scales,
                            std::int32_t* starts);
  Quantise whole;
  Quantise blocks;
  Quantise split_blocks;  // k is a multiple of quantised_block

  Quantise of(RowForm form) const {
    if (form == RowForm::whole) return whole;
    return form == RowForm::blocks ? blocks : split_blocks;
  }
};

const QuantiseKernels& quantise_kernels(Features features);

}  // namespace internvl
