#include "call.hpp"

#include <algorithm>

#include <c10/core/impl/VirtualGuardImpl.h>

namespace collectives
{

namespace
{

constexpr int64_t DIMS = 8; // loops that the core has for an array

c10::optional<coll_dtype> dtype_of(at::ScalarType type)
{
    switch (type) {
    case at::kDouble:
    case at::kComplexDouble:
        return COLL_F64;
    case at::kFloat:
    case at::kComplexFloat:
        return COLL_F32;
    case at::kHalf:
    case at::kComplexHalf:
        return COLL_F16;
    case at::kBFloat16:
        return COLL_BF16;
    case at::kChar:
        return COLL_I8;
    case at::kShort:
        return COLL_I16;
    case at::kInt:
        return COLL_I32;
    case at::kLong:
        return COLL_I64;
    case at::kByte:
        return COLL_U8;
    case at::kUInt16:
        return COLL_U16;
    case at::kUInt32:
        return COLL_U32;
    case at::kUInt64:
        return COLL_U64;
    case at::kBool:
        return COLL_BOOL;
    default:
        return c10::nullopt;
    }
}

coll_redop op_of(const c10d::ReduceOp &op)
{
    switch (op.op_) {
    case c10d::ReduceOp::SUM:
        return COLL_SUM;
    case c10d::ReduceOp::AVG:
        return COLL_AVG;
    case c10d::ReduceOp::PRODUCT:
        return COLL_PROD;
    case c10d::ReduceOp::MIN:
        return COLL_MIN;
    case c10d::ReduceOp::MAX:
        return COLL_MAX;
    case c10d::ReduceOp::BAND:
        return COLL_BAND;
    case c10d::ReduceOp::BOR:
        return COLL_BOR;
    case c10d::ReduceOp::BXOR:
        return COLL_BXOR;
    case c10d::ReduceOp::PREMUL_SUM:
        return COLL_SCALED_SUM;
    default:
        C10_THROW_ERROR(ValueError, "there is no such ReduceOp");
    }
}

double factor_of(const c10d::ReduceOp &op)
{
    // The name that it has in all releases.
    const auto *given = dynamic_cast<const c10d::NCCLPreMulSumSupplement *>(op.supplement_.get());
    TORCH_CHECK_VALUE(given, "PREMUL_SUM without a factor");
    return given->tensor_factor.defined() ? given->tensor_factor.item<double>()
                                          : given->double_factor;
}

bool is_direct(const at::Tensor &tensor)
{
    return tensor.device().is_cpu() && !tensor.is_conj() && !tensor.is_neg() &&
           (tensor.dim() < DIMS || tensor.is_contiguous());
}

// From its first byte to after its last one.
std::pair<uintptr_t, uintptr_t> extent_of(const at::Tensor &tensor)
{
    const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    if (tensor.numel() == 0)
        return {begin, begin};
    int64_t last = 0;
    for (int64_t i = 0; i < tensor.dim(); i++)
        last += (tensor.size(i) - 1) * tensor.stride(i);
    return {begin, begin + static_cast<uintptr_t>((last + 1) * tensor.element_size())};
}

} // namespace

bool reducible(at::ScalarType type)
{
    return dtype_of(type).has_value();
}

Call::Call(coll_kind kind)
{
    raw.kind = kind;
    raw.tag = COLL_UNTAGGED;
    // What a failed call leaves in its buffers is undefined in c10d, too.
    raw.flags = COLL_NOT_ATOMIC;
}

void Call::claim(const at::Tensor &tensor)
{
    TORCH_CHECK_VALUE(tensor.defined(), "a tensor is undefined");
    TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "a tensor of layout ", tensor.layout(),
                      "; only all_reduce takes sparse ones, others are for strided tensors");
    TORCH_CHECK_VALUE(tensor.device().is_cpu() || tensor.device().is_cuda(), "a tensor on ",
                      tensor.device(), "; tensors on cpu and cuda are supported");
    if (!type_) {
        type_ = tensor.scalar_type();
        pairs_ = tensor.is_complex();
        bytes_ = !dtype_of(*type_);
    }
    TORCH_CHECK_VALUE(*type_ == tensor.scalar_type(), "tensors of ", *type_, " and ",
                      tensor.scalar_type(), " in one call; all must have the same dtype");
}

at::Tensor Call::host_copy(const at::Tensor &tensor, bool with_content)
{
    auto options = tensor.options().device(at::kCPU).memory_format(at::MemoryFormat::Contiguous);
    const bool foreign = !tensor.device().is_cpu();
    auto copy = at::empty(tensor.sizes(), options.pinned_memory(foreign));
    if (with_content)
        copy.copy_(tensor);
    else if (foreign) // who reads the old content must have done so before it is overwritten
        c10::impl::VirtualGuardImpl(tensor.device().type()).synchronizeDevice(tensor.get_device());
    return copy;
}

coll_array Call::array_of(const at::Tensor &tensor)
{
    const uint64_t width = pairs_ ? 2 : bytes_ ? tensor.element_size() : 1;
    coll_array array{};
    array.data = tensor.numel() > 0 ? const_cast<void *>(tensor.const_data_ptr()) : nullptr;
    array.count = static_cast<uint64_t>(tensor.numel()) * width;
    if (tensor.numel() > 0 && !tensor.is_contiguous()) {
        Shape &shape = shapes_.emplace_back();
        const int64_t element = tensor.element_size();
        for (int64_t i = 0; i < tensor.dim(); i++) {
            shape.shape.push_back(static_cast<uint64_t>(tensor.size(i)));
            shape.strides.push_back(tensor.stride(i) * element);
        }
        if (width > 1) {
            shape.shape.push_back(width);
            shape.strides.push_back(element / static_cast<int64_t>(width));
        }
        shape.raw = {static_cast<uint32_t>(shape.shape.size()), shape.shape.data(),
                     shape.strides.data()};
        array.strides = &shape.raw;
    }
    kept.push_back(tensor);
    return array;
}

void Call::input(const at::Tensor &tensor)
{
    claim(tensor);
    given_.push_back(is_direct(tensor) ? tensor : host_copy(tensor, true));
    inputs_.push_back(array_of(given_.back()));
}

void Call::output(const at::Tensor &tensor)
{
    claim(tensor);
    const auto taken = is_direct(tensor) ? tensor : staged(tensor);
    taken_.push_back(extent_of(taken));
    outputs_.push_back(array_of(taken));
}

at::Tensor Call::staged(const at::Tensor &tensor)
{
    auto copy = host_copy(tensor, false);
    Return back{tensor, copy, c10::nullopt};
    if (!tensor.device().is_cpu())
        back.stream =
            c10::impl::VirtualGuardImpl(tensor.device().type()).getStream(tensor.device());
    returns.push_back(std::move(back));
    return copy;
}

void Call::in_place(const at::Tensor &tensor)
{
    in_place_ = true;
    output(tensor);
    if (!is_direct(tensor))
        kept.back().copy_(tensor);
}

void Call::reduce(const c10d::ReduceOp &op)
{
    reduces_ = true;
    raw.op = op_of(op);
    if (raw.op == COLL_SCALED_SUM)
        raw.factor = factor_of(op);
}

bool Call::is_floating() const
{
    return type_ && !bytes_ && (at::isFloatingType(*type_) || at::isComplexType(*type_));
}

// The core knows an input that is its own block of the output, or the reverse, if both are in one
// piece; what else c10d allows, as a list with the input among the outputs, it takes for an overlap.
void Call::separate()
{
    const bool pieces = inputs_.size() == 1 && outputs_.size() == 1 && shapes_.empty();
    if (pieces && raw.kind != COLL_ALL_TO_ALL)
        return;
    std::sort(taken_.begin(), taken_.end());
    for (size_t i = 1; i < taken_.size(); i++) // from here on: the furthest end up to there
        taken_[i].second = std::max(taken_[i].second, taken_[i - 1].second);
    for (size_t i = 0; i < given_.size(); i++) {
        const auto [begin, end] = extent_of(given_[i]);
        const auto after = std::lower_bound(taken_.begin(), taken_.end(), std::pair{end, end});
        if (after != taken_.begin() && std::prev(after)->second > begin)
            inputs_[i] = array_of(host_copy(given_[i], true));
    }
}

coll_call &Call::finish(uint64_t count)
{
    separate();
    const bool additive = raw.op == COLL_SUM || raw.op == COLL_AVG || raw.op == COLL_SCALED_SUM;
    TORCH_CHECK_VALUE(!reduces_ || !bytes_, "elements of ", type_.value_or(at::kByte),
                      " cannot be reduced, only copied");
    TORCH_CHECK_VALUE(!reduces_ || !pairs_ || additive,
                      "complex numbers can be reduced by SUM, AVG and PREMUL_SUM only");
    const uint64_t width = pairs_ ? 2 : bytes_ ? at::elementSize(*type_) : 1;
    raw.dtype = type_ ? dtype_of(*type_).value_or(COLL_U8) : COLL_U8;
    raw.count = count * width;
    for (auto *each : {&counts, &counts_from})
        for (auto &one : *each)
            one *= width;
    raw.counts = counts.empty() ? nullptr : counts.data();
    raw.counts_from = counts_from.empty() ? nullptr : counts_from.data();
    auto place = [](const std::vector<coll_array> &arrays, const coll_array *&list, uint32_t &n,
                    const coll_strides *&strides) -> void * {
        if (arrays.size() == 1) {
            strides = arrays[0].strides;
            return arrays[0].data;
        }
        list = arrays.empty() ? nullptr : arrays.data();
        n = static_cast<uint32_t>(arrays.size());
        return nullptr;
    };
    const auto &inputs = in_place_ ? outputs_ : inputs_;
    raw.input = place(inputs, raw.inputs, raw.input_arrays, raw.input_strides);
    raw.output = place(outputs_, raw.outputs, raw.output_arrays, raw.output_strides);
    return raw;
}

} // namespace collectives
