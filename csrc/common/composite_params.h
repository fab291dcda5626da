// Parameters of the composite family's kernels, on any device.
#pragma once

#include "tensor_view.h"

namespace fastbg {

// out[n] = b[pairs[n,1]] inside outer and outside inner, a[pairs[n,0]] elsewhere.
struct CompositeParams {
  TensorView a;      // (A,C,H,W) float or uint8 (read as grey level / 255)
  TensorView b;      // (B,C,H,W) same dtype
  TensorView pairs;  // (N,2) int32
  TensorView inner;  // (4) or (N,4) int32: y0, x0, y1, x1, half-open
  TensorView outer;  // likewise
  TensorView out;    // (N,C,H,W); float32 for uint8 sources
};

// Output (i,j) = sum_t sum_u wy[i,t] wx[j,u] composite[iy[i,t], ix[j,u]].
struct CompositeLrParams {
  CompositeParams composite;  // its `out` is (N,C,H/s,W/s)
  TensorView row_index;       // (H/s,T) int32, inside the image
  TensorView row_weight;      // (H/s,T) float32
  TensorView column_index;    // (W/s,T) int32
  TensorView column_weight;   // (W/s,T) float32
  bool quantize;              // clip to [0,1], round to grey levels
};

// How the seam of a composite is bridged.
struct SeamParams {
  TensorView decay;  // (D) float32: weights of the distances 1, 2, .. from a rim; 0 beyond it
};

// Cell (r,c) of out[n] holds tiles[n] under the transform cells[n,r,c] (fastbg.Transform).
struct MosaicParams {
  TensorView tiles;  // (N,C,h,w) float
  TensorView cells;  // (N,g,g) int32
  TensorView out;    // (N,C,g*h,g*w) same dtype
};

}  // namespace fastbg
