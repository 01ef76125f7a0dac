// c10d::Backend over a group of the core. It decides nothing: each call becomes a coll_call.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "call.hpp"
#include "collectives.h"
#include "journal.hpp"
#include "work.hpp"

namespace collectives
{

using Tensors = std::vector<at::Tensor>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

class Backend final : public c10d::Backend
{
  public:
    // What the Python side does, which owns the group: `close` it, once; make the backend of a `split`.
    struct Owner {
        std::function<void()> close;
        std::function<c10::intrusive_ptr<c10d::Backend>(const c10::intrusive_ptr<c10d::Store> &,
                                                        const std::vector<int> &,
                                                        const c10::intrusive_ptr<Options> &)>
            split;
        std::shared_ptr<void> object; // it, for who asks
    };

    // `group` stays valid until owner.close. `peers`: the UUIDs of the ranks, 16 bytes each. `codec`: of
    // sums of floats; nullopt: none.
    Backend(coll_group *group, int rank, std::string peers, std::string name,
            std::chrono::milliseconds timeout, std::optional<coll_codec> codec, Owner owner);
    ~Backend() override;

    const std::string getBackendName() const override { return "collectives"; }
    c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
    void setTimeout(std::chrono::milliseconds timeout) override;
    bool supportsSplitting() const override { return true; }
    bool supportsCoalescing() const override { return true; }
    c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store> &store,
                                            const std::vector<int> &ranks,
                                            const c10::intrusive_ptr<Options> &options) override;

    WorkPtr broadcast(Tensors &tensors, const c10d::BroadcastOptions &options) override;
    WorkPtr allreduce(Tensors &tensors, const c10d::AllreduceOptions &options) override;
    WorkPtr allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &options) override;
    WorkPtr allreduce_coalesced(Tensors &tensors,
                                const c10d::AllreduceCoalescedOptions &options) override;
    WorkPtr reduce(Tensors &tensors, const c10d::ReduceOptions &options) override;
    WorkPtr allgather(std::vector<Tensors> &outputs, Tensors &inputs,
                      const c10d::AllgatherOptions &options) override;
    WorkPtr _allgather_base(at::Tensor &output, at::Tensor &input,
                            const c10d::AllgatherOptions &options) override;
    WorkPtr allgather_coalesced(std::vector<Tensors> &outputs, Tensors &inputs,
                                const c10d::AllgatherOptions &options) override;
    WorkPtr allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                            const c10d::AllgatherOptions &options) override;
    WorkPtr gather(std::vector<Tensors> &outputs, Tensors &inputs,
                   const c10d::GatherOptions &options) override;
    WorkPtr scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                    const c10d::ScatterOptions &options) override;
    WorkPtr reduce_scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                           const c10d::ReduceScatterOptions &options) override;
    WorkPtr _reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                 const c10d::ReduceScatterOptions &options) override;
    WorkPtr reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                            const c10d::ReduceScatterOptions &options) override;
    WorkPtr alltoall_base(at::Tensor &output, at::Tensor &input,
                          std::vector<int64_t> &output_splits, std::vector<int64_t> &input_splits,
                          const c10d::AllToAllOptions &options) override;
    WorkPtr alltoall(Tensors &outputs, Tensors &inputs,
                     const c10d::AllToAllOptions &options) override;
    WorkPtr send(Tensors &tensors, int destination, int tag) override;
    WorkPtr recv(Tensors &tensors, int source, int tag) override;
    WorkPtr recvAnysource(Tensors &tensors, int tag) override;
    WorkPtr barrier(const c10d::BarrierOptions &options) override;
    void monitoredBarrier(const c10d::BarrierOptions &options, bool wait_all_ranks) override;

    void startCoalescing() override;
    WorkPtr endCoalescing() override;
    void setSequenceNumberForGroup() override {} // all count from 0
    uint64_t getSequenceNumberForGroup() override { return sequence_; }
    c10d::ErrorType getError() override;
    void abort() override;
    void shutdown() override;

    const std::shared_ptr<Journal> &journal() const { return journal_; }
    const Owner &owner() const { return owner_; }

  private:
    c10::intrusive_ptr<Work> open(c10d::OpType type, const char *title, const Tensors &inputs,
                                  const Tensors &outputs);
    // `awaited`: the caller waits for it at once.
    void issue(Flight &flight, Call &call, uint64_t count, std::chrono::milliseconds timeout,
               bool awaited);
    void encode(Call &call) const;
    WorkPtr pair(c10d::OpType type, const char *title, coll_kind kind, Tensors &tensors,
                 uint32_t peer, int tag);

    coll_group *const group_;
    const std::string peers_;
    const c10::intrusive_ptr<Options> options_;
    const std::optional<coll_codec> codec_;
    const Owner owner_;
    const std::shared_ptr<Journal> journal_ = std::make_shared<Journal>();
    std::atomic<int64_t> timeout_ms_;
    std::atomic<uint64_t> sequence_{0};
    std::shared_mutex closing_; // shared: the group is in use; guards closed_
    bool closed_ = false;
    std::optional<Flights> coalescing_; // what is called between start and end
    std::vector<std::weak_ptr<Flight>>
        staged_; // the last calls of several operations, by their tag
    uint64_t staged_calls_ = 0;
};

} // namespace collectives
