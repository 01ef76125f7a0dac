#include "backend.hpp"

#include <ATen/core/LegacyTypeDispatch.h>

#include <numeric>

#include <Python.h>

#include "completer.hpp"

namespace collectives
{

namespace
{

using c10d::OpType;

// Of calls that are several operations, one after the other: each of those under way has a tag of its
// own, so that they meet their like whatever else is called meanwhile. User's tags are ints, below it.
constexpr uint32_t STAGED_TAG = 0xffff0000;
constexpr uint64_t STAGED_CALLS = 256;
constexpr uint64_t STAGED_PATIENCE_NS = 5'000'000'000;

const at::Tensor &single(const Tensors &tensors, const char *what)
{
    TORCH_CHECK_VALUE(tensors.size() == 1, what, ": ", tensors.size(),
                      " tensors; it takes exactly one");
    return tensors[0];
}

const Tensors &single(const std::vector<Tensors> &lists, const char *what)
{
    TORCH_CHECK_VALUE(lists.size() == 1, what, ": ", lists.size(),
                      " lists of tensors; it takes exactly one");
    return lists[0];
}

uint64_t count_of(const at::Tensor &tensor)
{
    return static_cast<uint64_t>(tensor.numel());
}

// One tensor for each rank. True: they have the same number of elements.
bool check_list(const Tensors &tensors, int size, const char *what)
{
    TORCH_CHECK_VALUE(tensors.size() == static_cast<size_t>(size), what, ": a list of ",
                      tensors.size(), " tensors for ", size, " ranks; it needs one for each");
    return std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor &tensor) {
        return tensor.numel() == tensors[0].numel();
    });
}

std::vector<uint64_t> counts_of(const Tensors &tensors)
{
    std::vector<uint64_t> counts;
    for (const auto &tensor : tensors)
        counts.push_back(count_of(tensor));
    return counts;
}

// The block of this rank in what is of all.
void check_own(const at::Tensor &own, const at::Tensor &block, const char *what)
{
    TORCH_CHECK_VALUE(own.numel() == block.numel(), what, ": this rank's tensor has ", own.numel(),
                      " elements, its place in the list has ", block.numel());
}

void check_whole(const at::Tensor &whole, const at::Tensor &part, int size, const char *what)
{
    TORCH_CHECK_VALUE(whole.numel() == part.numel() * size, what, ": ", whole.numel(),
                      " elements for ", size, " ranks with ", part.numel(), " elements each");
}

// Rows of the first dimension for each rank, as elements.
std::vector<uint64_t> split_counts(const at::Tensor &tensor, const std::vector<int64_t> &splits,
                                   int size, const char *what)
{
    const int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 1;
    std::vector<int64_t> each = splits;
    if (each.empty()) {
        TORCH_CHECK_VALUE(rows % size == 0, what, ": a first dimension of ", rows, " for ", size,
                          " ranks; pass split sizes, or make it divisible");
        each.assign(static_cast<size_t>(size), rows / size);
    }
    TORCH_CHECK_VALUE(each.size() == static_cast<size_t>(size), what, ": ", each.size(),
                      " split sizes for ", size, " ranks");
    const int64_t sum = std::accumulate(each.begin(), each.end(), int64_t{0});
    TORCH_CHECK_VALUE(std::all_of(each.begin(), each.end(), [](int64_t n) { return n >= 0; }) &&
                          sum == rows,
                      what, ": split sizes of ", sum, " rows for a first dimension of ", rows);
    const int64_t width = rows > 0 ? tensor.numel() / rows : 0;
    std::vector<uint64_t> counts;
    for (const int64_t n : each)
        counts.push_back(static_cast<uint64_t>(n * width));
    return counts;
}

// Tensors of the same dtype, in their order; all ranks find the same groups.
std::vector<std::vector<size_t>> by_type(const Tensors &tensors)
{
    std::vector<std::vector<size_t>> groups;
    for (size_t i = 0; i < tensors.size(); i++) {
        auto same = std::find_if(groups.begin(), groups.end(), [&](const auto &group) {
            return tensors[group[0]].scalar_type() == tensors[i].scalar_type();
        });
        if (same == groups.end())
            same = groups.emplace(groups.end());
        same->push_back(i);
    }
    return groups;
}

// The part of a tensor of all ranks that is of one; a view if the tensor is contiguous.
at::Tensor block_of(const at::Tensor &whole, int rank, int size)
{
    if (whole.dim() > 0 && whole.size(0) % size == 0) {
        const int64_t rows = whole.size(0) / size;
        return whole.narrow(0, rank * rows, rows);
    }
    const int64_t count = whole.numel() / size;
    return whole.reshape({-1}).narrow(0, rank * count, count);
}

class Unlocked
{ // whoever waits here does not hold the interpreter's lock
  public:
    Unlocked() : state_(Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
    ~Unlocked()
    {
        if (state_)
            PyEval_RestoreThread(state_);
    }

  private:
    PyThreadState *const state_;
};

} // namespace

Backend::Backend(coll_group *group, int rank, std::string peers, std::string name,
                 std::chrono::milliseconds timeout, std::optional<coll_codec> codec, Owner owner)
    : c10d::Backend(rank, static_cast<int>(peers.size() / 16)), group_(group),
      peers_(std::move(peers)), options_(c10::make_intrusive<Options>("collectives", timeout)),
      codec_(codec), owner_(std::move(owner)), timeout_ms_(timeout.count())
{
    options_->group_name = std::move(name);
    init();
}

Backend::~Backend()
{
    try {
        shutdown();
    } catch (const std::exception &error) {
        TORCH_WARN("closing a process group: ", error.what());
    }
}

void Backend::setTimeout(std::chrono::milliseconds timeout)
{
    timeout_ms_ = timeout.count();
    options_->timeout = timeout;
}

c10::intrusive_ptr<c10d::Backend> Backend::split(const c10::intrusive_ptr<c10d::Store> &store,
                                                 const std::vector<int> &ranks,
                                                 const c10::intrusive_ptr<Options> &options)
{
    if (std::find(ranks.begin(), ranks.end(), rank_) == ranks.end())
        return nullptr;
    return owner_.split(store, ranks, options);
}

// ---- from a call to a work ----------------------------------------------------------------------

c10::intrusive_ptr<Work> Backend::open(OpType type, const char *title, const Tensors &inputs,
                                       const Tensors &outputs)
{
    auto flight = std::make_shared<Flight>(journal_, ++sequence_, outputs);
    if (coalescing_)
        coalescing_->push_back(flight);
    return c10::make_intrusive<Work>(rank_, type, title, inputs, Flights{std::move(flight)});
}

void Backend::issue(Flight &flight, Call &call, uint64_t count, std::chrono::milliseconds timeout,
                    bool awaited)
{
    coll_call &raw = call.finish(count);
    raw.awaited = awaited;
    raw.peers = reinterpret_cast<const uint8_t *>(peers_.data());
    raw.peer_count = static_cast<uint32_t>(size_);
    const int64_t ms = timeout == c10d::kUnsetTimeout ? timeout_ms_.load() : timeout.count();
    raw.timeout_ns = static_cast<uint64_t>(std::max<int64_t>(ms, 0)) * 1'000'000;
    const std::shared_lock<std::shared_mutex> lock(closing_);
    if (closed_)
        std::rethrow_exception(make_error(
            COLL_CLOSED, "this process group was destroyed; make a new one: init_process_group()"));
    coll_operation *operation;
    const coll_status status = coll_issue(group_, &raw, &operation);
    switch (status) {
    case COLL_OK:
        flight.add(operation, raw, call);
        return;
    case COLL_INVALID_ARGUMENT:
        C10_THROW_ERROR(ValueError, std::string("collectives: ") + coll_last_error());
    case COLL_UNSUPPORTED:
        C10_THROW_ERROR(NotImplementedError, std::string("collectives: ") + coll_last_error());
    case COLL_FORKED:
        flight.fail(make_error(
            status,
            "this process was forked from a rank, whose process group it cannot use; call from "
            "the rank itself, or destroy the process group here and make a new one"));
        return;
    default:
        // The reducer of DDP does not survive a call that throws; through the work it does.
        flight.fail(make_error(status, coll_last_error()));
    }
}

void Backend::encode(Call &call) const
{
    const uint32_t op = call.raw.op;
    if (codec_ && call.is_floating() && (op == COLL_SUM || op == COLL_AVG || op == COLL_SCALED_SUM))
        call.raw.codec = &*codec_;
}

// ---- operations ---------------------------------------------------------------------------------

WorkPtr Backend::broadcast(Tensors &tensors, const c10d::BroadcastOptions &options)
{
    const at::Tensor &tensor = single(tensors, "broadcast");
    Call call(COLL_BROADCAST);
    call.raw.root = static_cast<uint32_t>(options.rootRank);
    call.in_place(tensor);
    auto work = open(OpType::BROADCAST, "collectives:broadcast", tensors, tensors);
    issue(work->flight(), call, count_of(tensor), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::allreduce(Tensors &tensors, const c10d::AllreduceOptions &options)
{
    const at::Tensor &tensor = single(tensors, "all_reduce");
    if (tensor.layout() == at::kSparse)
        return allreduce_sparse(tensors, options);
    Call call(COLL_ALL_REDUCE);
    call.in_place(tensor);
    call.reduce(options.reduceOp);
    encode(call);
    auto work = open(OpType::ALLREDUCE, "collectives:all_reduce", tensors, tensors);
    issue(work->flight(), call, count_of(tensor), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::allreduce_coalesced(Tensors &tensors,
                                     const c10d::AllreduceCoalescedOptions &options)
{
    auto work = open(OpType::ALLREDUCE_COALESCED, "collectives:all_reduce_coalesced", tensors,
                     tensors);
    for (const auto &group : by_type(tensors)) {
        Call call(COLL_ALL_REDUCE);
        uint64_t count = 0;
        for (const size_t i : group) {
            call.in_place(tensors[i]);
            count += count_of(tensors[i]);
        }
        call.reduce(options.reduceOp);
        encode(call);
        issue(work->flight(), call, count, options.timeout, !options.asyncOp);
    }
    return work;
}

WorkPtr Backend::reduce(Tensors &tensors, const c10d::ReduceOptions &options)
{
    const at::Tensor &tensor = single(tensors, "reduce");
    Call call(COLL_REDUCE);
    call.raw.root = static_cast<uint32_t>(options.rootRank);
    if (options.rootRank == rank_)
        call.in_place(tensor);
    else
        call.input(tensor);
    call.reduce(options.reduceOp);
    encode(call);
    auto work = open(OpType::REDUCE, "collectives:reduce", tensors, tensors);
    issue(work->flight(), call, count_of(tensor), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::allgather(std::vector<Tensors> &outputs, Tensors &inputs,
                           const c10d::AllgatherOptions &options)
{
    const at::Tensor &input = single(inputs, "all_gather");
    const Tensors &list = single(outputs, "all_gather");
    const bool even = check_list(list, size_, "all_gather");
    check_own(input, list[static_cast<size_t>(rank_)], "all_gather");
    Call call(COLL_ALL_GATHER);
    call.input(input);
    for (const auto &output : list)
        call.output(output);
    if (!even)
        call.counts = counts_of(list);
    auto work = open(OpType::ALLGATHER, "collectives:all_gather", inputs, list);
    issue(work->flight(), call, count_of(input), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::_allgather_base(at::Tensor &output, at::Tensor &input,
                                 const c10d::AllgatherOptions &options)
{
    check_whole(output, input, size_, "all_gather_into_tensor");
    Call call(COLL_ALL_GATHER);
    call.input(input);
    call.output(output);
    auto work = open(OpType::_ALLGATHER_BASE, "collectives:all_gather_into_tensor", {input},
                     {output});
    issue(work->flight(), call, count_of(input), options.timeout, !options.asyncOp);
    return work;
}

// outputs[r][i] becomes input i of rank r.
WorkPtr Backend::allgather_coalesced(std::vector<Tensors> &outputs, Tensors &inputs,
                                     const c10d::AllgatherOptions &options)
{
    TORCH_CHECK_VALUE(outputs.size() == static_cast<size_t>(size_),
                      "all_gather_coalesced: ", outputs.size(), " lists for ", size_,
                      " ranks; it needs one for each");
    Tensors flat;
    for (const auto &list : outputs) {
        TORCH_CHECK_VALUE(list.size() == inputs.size(), "all_gather_coalesced: a list of ",
                          list.size(), " tensors for ", inputs.size(), " inputs");
        for (size_t i = 0; i < list.size(); i++)
            check_own(inputs[i], list[i], "all_gather_coalesced");
        flat.insert(flat.end(), list.begin(), list.end());
    }
    auto work = open(OpType::ALLGATHER_COALESCED, "collectives:all_gather_coalesced", inputs, flat);
    for (const auto &group : by_type(inputs)) {
        Call call(COLL_ALL_GATHER);
        uint64_t count = 0;
        for (const size_t i : group) {
            call.input(inputs[i]);
            count += count_of(inputs[i]);
        }
        for (const auto &list : outputs)
            for (const size_t i : group)
                call.output(list[i]);
        issue(work->flight(), call, count, options.timeout, !options.asyncOp);
    }
    return work;
}

WorkPtr Backend::allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                 const c10d::AllgatherOptions &options)
{
    TORCH_CHECK_VALUE(outputs.size() == inputs.size(),
                      "all_gather_into_tensor_coalesced: ", outputs.size(), " outputs for ",
                      inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); i++)
        check_whole(outputs[i], inputs[i], size_, "all_gather_into_tensor_coalesced");
    auto work = open(OpType::ALLGATHER_COALESCED, "collectives:all_gather_into_tensor_coalesced",
                     inputs, outputs);
    for (const auto &group : by_type(inputs)) {
        Call call(COLL_ALL_GATHER);
        uint64_t count = 0;
        for (const size_t i : group) {
            call.input(inputs[i]);
            count += count_of(inputs[i]);
        }
        Tensors wholes; // blocks of a strided one may lie between each other
        for (const size_t i : group)
            wholes.push_back(outputs[i].is_contiguous() ? outputs[i] : call.staged(outputs[i]));
        for (int rank = 0; rank < size_; rank++)
            for (const auto &whole : wholes)
                call.output(block_of(whole, rank, size_));
        issue(work->flight(), call, count, options.timeout, !options.asyncOp);
    }
    return work;
}

WorkPtr Backend::gather(std::vector<Tensors> &outputs, Tensors &inputs,
                        const c10d::GatherOptions &options)
{
    const at::Tensor &input = single(inputs, "gather");
    Call call(COLL_GATHER);
    call.raw.root = static_cast<uint32_t>(options.rootRank);
    call.input(input);
    Tensors results;
    if (options.rootRank == rank_) {
        results = single(outputs, "gather");
        TORCH_CHECK_VALUE(check_list(results, size_, "gather"),
                          "gather: outputs of different sizes; all ranks give as many elements");
        check_own(input, results[static_cast<size_t>(rank_)], "gather");
        for (const auto &output : results)
            call.output(output);
    } else {
        TORCH_CHECK_VALUE(outputs.empty() || outputs[0].empty(), "gather: outputs on rank ", rank_,
                          ", which is not the root");
    }
    auto work = open(OpType::GATHER, "collectives:gather", inputs, results);
    issue(work->flight(), call, count_of(input), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                         const c10d::ScatterOptions &options)
{
    const at::Tensor &output = single(outputs, "scatter");
    Call call(COLL_SCATTER);
    call.raw.root = static_cast<uint32_t>(options.rootRank);
    call.output(output);
    Tensors given;
    if (options.rootRank == rank_) {
        given = single(inputs, "scatter");
        TORCH_CHECK_VALUE(check_list(given, size_, "scatter"),
                          "scatter: inputs of different sizes; all ranks get as many elements");
        check_own(output, given[static_cast<size_t>(rank_)], "scatter");
        for (const auto &input : given)
            call.input(input);
    } else {
        TORCH_CHECK_VALUE(inputs.empty() || inputs[0].empty(), "scatter: inputs on rank ", rank_,
                          ", which is not the root");
    }
    auto work = open(OpType::SCATTER, "collectives:scatter", given, outputs);
    issue(work->flight(), call, count_of(output), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::reduce_scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                                const c10d::ReduceScatterOptions &options)
{
    const at::Tensor &output = single(outputs, "reduce_scatter");
    const Tensors &list = single(inputs, "reduce_scatter");
    const bool even = check_list(list, size_, "reduce_scatter");
    check_own(output, list[static_cast<size_t>(rank_)], "reduce_scatter");
    Call call(COLL_REDUCE_SCATTER);
    for (const auto &input : list)
        call.input(input);
    call.output(output);
    call.reduce(options.reduceOp);
    encode(call);
    if (!even)
        call.counts = counts_of(list);
    auto work = open(OpType::REDUCE_SCATTER, "collectives:reduce_scatter", list, outputs);
    issue(work->flight(), call, count_of(output), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::_reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                      const c10d::ReduceScatterOptions &options)
{
    check_whole(input, output, size_, "reduce_scatter_tensor");
    Call call(COLL_REDUCE_SCATTER);
    call.input(input);
    call.output(output);
    call.reduce(options.reduceOp);
    encode(call);
    auto work = open(OpType::_REDUCE_SCATTER_BASE, "collectives:reduce_scatter_tensor", {input},
                     {output});
    issue(work->flight(), call, count_of(output), options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                 const c10d::ReduceScatterOptions &options)
{
    TORCH_CHECK_VALUE(outputs.size() == inputs.size(),
                      "reduce_scatter_tensor_coalesced: ", outputs.size(), " outputs for ",
                      inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); i++)
        check_whole(inputs[i], outputs[i], size_, "reduce_scatter_tensor_coalesced");
    auto work = open(OpType::_REDUCE_SCATTER_BASE, "collectives:reduce_scatter_tensor_coalesced",
                     inputs, outputs);
    for (const auto &group : by_type(inputs)) {
        Call call(COLL_REDUCE_SCATTER);
        uint64_t count = 0;
        for (int rank = 0; rank < size_; rank++)
            for (const size_t i : group)
                call.input(block_of(inputs[i], rank, size_));
        for (const size_t i : group) {
            call.output(outputs[i]);
            count += count_of(outputs[i]);
        }
        call.reduce(options.reduceOp);
        encode(call);
        issue(work->flight(), call, count, options.timeout, !options.asyncOp);
    }
    return work;
}

WorkPtr Backend::alltoall_base(at::Tensor &output, at::Tensor &input,
                               std::vector<int64_t> &output_splits,
                               std::vector<int64_t> &input_splits,
                               const c10d::AllToAllOptions &options)
{
    Call call(COLL_ALL_TO_ALL);
    call.input(input);
    call.output(output);
    call.counts = split_counts(input, input_splits, size_, "all_to_all_single, input");
    call.counts_from = split_counts(output, output_splits, size_, "all_to_all_single, output");
    auto work = open(OpType::ALLTOALL_BASE, "collectives:all_to_all_single", {input}, {output});
    issue(work->flight(), call, 0, options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &options)
{
    check_list(inputs, size_, "all_to_all, inputs");
    check_list(outputs, size_, "all_to_all, outputs");
    Call call(COLL_ALL_TO_ALL);
    for (const auto &input : inputs)
        call.input(input);
    for (const auto &output : outputs)
        call.output(output);
    call.counts = counts_of(inputs);
    call.counts_from = counts_of(outputs);
    auto work = open(OpType::ALLTOALL, "collectives:all_to_all", inputs, outputs);
    issue(work->flight(), call, 0, options.timeout, !options.asyncOp);
    return work;
}

WorkPtr Backend::pair(OpType type, const char *title, coll_kind kind, Tensors &tensors,
                      uint32_t peer, int tag)
{
    const at::Tensor &tensor = single(tensors, coll_kind_name(kind));
    TORCH_CHECK_VALUE(tag >= 0, coll_kind_name(kind), ": tag is ", tag, "; it must not be below 0");
    TORCH_CHECK_VALUE(peer == COLL_ANY || peer < static_cast<uint32_t>(size_), coll_kind_name(kind),
                      ": there is no rank ", static_cast<int>(peer));
    TORCH_CHECK_VALUE(peer != static_cast<uint32_t>(rank_), coll_kind_name(kind), ": rank ", rank_,
                      " is this rank itself; copy the tensor");
    Call call(kind);
    call.raw.root = peer;
    call.raw.tag = static_cast<uint32_t>(tag);
    if (kind == COLL_SEND)
        call.input(tensor);
    else
        call.output(tensor);
    auto work = open(type, title, tensors, tensors);
    issue(work->flight(), call, count_of(tensor), c10d::kUnsetTimeout, false);
    return work;
}

WorkPtr Backend::send(Tensors &tensors, int destination, int tag)
{
    return pair(OpType::SEND, "collectives:send", COLL_SEND, tensors,
                static_cast<uint32_t>(destination), tag);
}

WorkPtr Backend::recv(Tensors &tensors, int source, int tag)
{
    TORCH_CHECK_VALUE(source >= 0, "recv: there is no rank ", source);
    return pair(OpType::RECV, "collectives:recv", COLL_RECV, tensors, static_cast<uint32_t>(source),
                tag);
}

WorkPtr Backend::recvAnysource(Tensors &tensors, int tag)
{
    return pair(OpType::RECVANYSOURCE, "collectives:recv_any", COLL_RECV, tensors, COLL_ANY, tag);
}

WorkPtr Backend::barrier(const c10d::BarrierOptions &options)
{
    Call call(COLL_BARRIER);
    auto work = open(OpType::BARRIER, "collectives:barrier", {}, {});
    issue(work->flight(), call, 0, options.timeout, !options.asyncOp);
    return work;
}

void Backend::monitoredBarrier(const c10d::BarrierOptions &options, bool /*wait_all_ranks*/)
{
    auto waiting = options;
    waiting.asyncOp = false;
    barrier(waiting)->wait(); // an error names all who are missing in any case
}

// ---- sparse tensors -----------------------------------------------------------------------------

namespace
{

// How a sparse tensor is told to the others: its dimensions, how many elements it has, its shape.
constexpr int64_t SHAPE_MAX = 16;

at::Tensor describe(const at::Tensor &sparse)
{
    auto words = at::zeros({3 + SHAPE_MAX}, at::kLong);
    auto *word = words.data_ptr<int64_t>();
    word[0] = sparse.sparse_dim();
    word[1] = sparse.dense_dim();
    word[2] = sparse._nnz();
    for (int64_t i = 0; i < sparse.dim(); i++)
        word[3 + i] = sparse.size(i);
    return words;
}

// Where the indices and values of each rank go, by what it has told of its tensor.
void read_descriptions(const at::Tensor &mine, const at::Tensor &words, const Tensors &all,
                       int rank, Tensors &indices, Tensors &values)
{
    for (size_t i = 0; i < all.size(); i++) {
        auto theirs = all[i].clone();
        const int64_t nnz = theirs[2].item<int64_t>();
        theirs[2] = words[2];
        TORCH_CHECK_VALUE(theirs.equal(words), "collectives: ranks ", rank, " and ", i,
                          " have sparse tensors of different shapes in one all_reduce");
        auto sizes = mine.values().sizes().vec();
        sizes[0] = nnz;
        indices.push_back(at::empty({mine.sparse_dim(), nnz}, at::kLong));
        values.push_back(at::empty(sizes, mine.values().options()));
    }
}

} // namespace

WorkPtr Backend::allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &options)
{
    const at::Tensor tensor = single(tensors, "all_reduce");
    const auto op = options.reduceOp.op_;
    TORCH_CHECK_VALUE(tensor.layout() == at::kSparse, "all_reduce of a tensor of layout ",
                      tensor.layout(), "; strided and sparse (COO) ones are supported");
    TORCH_CHECK_VALUE(op == c10d::ReduceOp::SUM || op == c10d::ReduceOp::AVG,
                      "sparse tensors can be reduced by SUM and AVG only");
    TORCH_CHECK_VALUE(tensor.dim() <= SHAPE_MAX, "a sparse tensor with ", tensor.dim(),
                      " dimensions; at most ", SHAPE_MAX, " are supported");
    TORCH_CHECK_VALUE(reducible(tensor.scalar_type()), "elements of ", tensor.scalar_type(),
                      " cannot be reduced, only copied");
    const at::Tensor mine = tensor.coalesce().to(at::kCPU);
    auto work = open(OpType::_ALLREDUCE_SPARSE, "collectives:all_reduce_sparse", tensors, tensors);

    const uint64_t turn = staged_calls_++ % STAGED_CALLS;
    staged_.resize(STAGED_CALLS);
    if (const auto before = staged_[turn].lock())
        before->wait(UINT64_MAX);
    staged_[turn] = work->flight().weak_from_this();

    // Steps may come after the last one who holds the group has let it go.
    const auto gather = [self = c10::intrusive_ptr<Backend>::reclaim_copy(this), turn,
                         timeout = options.timeout](Flight &flight, const at::Tensor &input,
                                                    const Tensors &outputs) {
        Call call(COLL_ALL_GATHER);
        call.raw.tag = STAGED_TAG + static_cast<uint32_t>(turn);
        call.input(input);
        for (const auto &output : outputs)
            call.output(output);
        call.counts = counts_of(outputs);
        self->issue(flight, call, count_of(input), timeout, false);
    };
    const at::Tensor words = describe(mine);
    Tensors all;
    for (int rank = 0; rank < size_; rank++)
        all.push_back(at::empty_like(words));
    auto indices = std::make_shared<Tensors>(), values = std::make_shared<Tensors>();
    work->flight().then([=, rank = rank_, size = size_](Flight &flight) {
        const at::AutoDispatchBelowADInplaceOrView guard;
        if (indices->empty()) {
            read_descriptions(mine, words, all, rank, *indices, *values);
            gather(flight, mine.indices(), *indices);
            gather(flight, mine.values(), *values);
            return true;
        }
        auto sum = at::sparse_coo_tensor(at::cat(*indices, 1), at::cat(*values, 0), mine.sizes())
                       .coalesce();
        if (op == c10d::ReduceOp::AVG)
            sum = at::isIntegralType(sum.scalar_type(), true) ? sum.div(size, "trunc")
                                                              : sum.div(size);
        at::Tensor(tensor).copy_(sum);
        return false;
    });
    gather(work->flight(), words, all);
    complete_later(
        work->flight().shared_from_this()); // others wait for its steps, whoever waits here
    return work;
}

// ---- the group ------------------------------------------------------------------------------------

void Backend::startCoalescing()
{
    // What is still open was left by an exception: it goes on, and nobody waits for it.
    for (const auto &flight : coalescing_.value_or(Flights()))
        complete_later(flight);
    coalescing_.emplace();
}

WorkPtr Backend::endCoalescing()
{
    TORCH_CHECK_VALUE(coalescing_, "no calls are being coalesced");
    Flights flights = std::move(*coalescing_);
    coalescing_.reset();
    return c10::make_intrusive<Work>(rank_, OpType::COALESCED, nullptr, Tensors{},
                                     std::move(flights));
}

c10d::ErrorType Backend::getError()
{
    const std::shared_lock<std::shared_mutex> lock(closing_);
    uint8_t culprit[16];
    switch (closed_ ? COLL_CLOSED : coll_group_state(group_, culprit)) {
    case COLL_OK:
        return c10d::ErrorType::SUCCESS;
    case COLL_TIMEOUT:
        return c10d::ErrorType::TIMEOUT;
    case COLL_PEER_LOST:
        return c10d::ErrorType::REMOTE_ERROR;
    default:
        return c10d::ErrorType::COMM_ERROR;
    }
}

void Backend::abort()
{
    const std::shared_lock<std::shared_mutex> lock(closing_);
    if (!closed_)
        coll_group_break(group_, COLL_CANCELLED,
                         c10::str("rank ", rank_, " aborted the process group").c_str());
}

void Backend::shutdown()
{
    const Unlocked unlocked;
    std::exception_ptr interrupt;
    try { // what has further steps to take
        const uint64_t until = now() + STAGED_PATIENCE_NS;
        for (const auto &staged : staged_)
            if (const auto flight = staged.lock(); flight && flight->is_of_this_process())
                flight->wait(until);
    } catch (...) {
        interrupt = std::current_exception();
    }
    {
        const std::unique_lock<std::shared_mutex> lock(closing_);
        if (std::exchange(closed_, true))
            return;
    }
    owner_.close();
    if (interrupt)
        std::rethrow_exception(interrupt);
}

} // namespace collectives
