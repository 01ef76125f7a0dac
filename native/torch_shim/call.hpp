// What c10d calls, as the core takes it: tensors become arrays, wherever and however they lie.
#pragma once

#include <deque>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/Stream.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "collectives.h"

namespace collectives
{

// What has to be done with tensors once an operation has succeeded.
struct Return {
    at::Tensor to, from; // to.copy_(from)
    c10::optional<c10::Stream> stream; // on which the caller had called
};

// A coll_call and all that it points to. Tensors that the core cannot read or write where they are (on
// another device, conjugated lazily, with more dimensions than it has loops for, an input among the
// outputs) are staged: copied to the host's memory here, and back when the operation has succeeded.
class Call
{
  public:
    explicit Call(coll_kind kind);
    Call(Call &&) = delete; // the core's structure points into it

    coll_call raw{};

    // The arrays of the call, in their order. All of one call have the same dtype.
    void input(const at::Tensor &tensor);
    void output(const at::Tensor &tensor);
    void in_place(const at::Tensor &tensor);
    // In host memory and contiguous: what will be copied to the tensor.
    at::Tensor staged(const at::Tensor &tensor);

    // Elements of each rank's block: as they come, for what has blocks of different sizes.
    std::vector<uint64_t> counts, counts_from;

    // A reduction of what is given as input. Reductions need to know the elements' type; what only moves
    // them does without where the core has no name for it, and is taken as bytes then.
    void reduce(const c10d::ReduceOp &op);

    // Whether the tensors' elements are floats, complex ones among them.
    bool is_floating() const;

    // Fill in what follows from the above. `count`: elements of each block, or of all (see coll_call);
    // of the tensors' elements.
    coll_call &finish(uint64_t count);

    std::vector<at::Tensor> kept; // whose memory the core uses
    std::vector<Return> returns;

  private:
    struct Shape {
        std::vector<uint64_t> shape;
        std::vector<int64_t> strides;
        coll_strides raw;
    };

    void claim(const at::Tensor &tensor);
    coll_array array_of(const at::Tensor &tensor);
    void separate();
    at::Tensor host_copy(const at::Tensor &tensor, bool with_content);

    std::deque<Shape> shapes_; // its elements stay where they are
    std::vector<coll_array> inputs_, outputs_;
    std::vector<at::Tensor> given_; // those of inputs_
    std::vector<std::pair<uintptr_t, uintptr_t>> taken_; // where those of outputs_ begin and end
    c10::optional<at::ScalarType> type_;
    bool reduces_ = false, in_place_ = false;
    bool pairs_ = false; // an element is two of the core's: complex numbers
    bool bytes_ = false; // an element is taken as bytes
};

// Whether the core can reduce elements of this type, as they are or as pairs.
bool reducible(at::ScalarType type);

} // namespace collectives
