#pragma once

namespace internvl {

enum class NormKind { layer_norm, rms_norm };

}  // namespace internvl
