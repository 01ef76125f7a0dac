// The extension module: what Python sees of the shim.
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include "backend.hpp"
#include "completer.hpp"

namespace py = pybind11;
using collectives::Backend;

namespace
{

// A Python object that a C++ thread may let go of.
std::shared_ptr<py::object> held(py::object &&given)
{
    return {new py::object(std::move(given)), [](py::object *object) {
                if (!Py_IsInitialized())
                    return; // the interpreter has gone, and its memory with it
                py::gil_scoped_acquire gil;
                delete object;
            }};
}

c10::intrusive_ptr<Backend> make(uintptr_t group, int rank, const py::bytes &peers,
                                 std::string name, std::chrono::milliseconds timeout,
                                 uintptr_t codec, py::object owner)
{
    const auto object = held(std::move(owner));
    Backend::Owner calls;
    calls.close = [object] {
        py::gil_scoped_acquire gil;
        object->attr("close")();
    };
    calls.split = [object](const auto &store, const auto &ranks, const auto &options) {
        py::gil_scoped_acquire gil;
        return object->attr("split")(store, ranks, options->timeout)
            .template cast<c10::intrusive_ptr<c10d::Backend>>();
    };
    calls.object = object;
    std::optional<coll_codec> chosen;
    if (codec != 0)
        chosen = *reinterpret_cast<const coll_codec *>(codec);
    return c10::make_intrusive<Backend>(reinterpret_cast<coll_group *>(group), rank, peers,
                                        std::move(name), timeout, chosen, std::move(calls));
}

py::dict counts(const Backend &backend)
{
    py::dict found;
    const auto counts = backend.journal()->counts();
    for (uint32_t kind = 0; kind < COLL_KIND_COUNT; kind++)
        if (counts[kind] > 0)
            found[coll_kind_name(kind)] = counts[kind];
    return found;
}

py::list trace(const Backend &backend)
{
    const auto seconds = [](uint64_t ns) -> py::object {
        return ns == 0 ? py::object(py::none()) : py::float_(static_cast<double>(ns) * 1e-9);
    };
    py::list found;
    for (const auto &entry : backend.journal()->entries()) {
        py::dict one;
        one["sequence"] = entry.sequence;
        one["number"] = entry.number;
        one["tag"] = entry.tag == COLL_UNTAGGED ? py::object(py::none()) : py::int_(entry.tag);
        one["kind"] = coll_kind_name(entry.kind);
        one["dtype"] = coll_dtype_name(entry.dtype);
        one["bytes"] = entry.bytes;
        one["status"] = coll_status_text(entry.status);
        one["entered"] = seconds(entry.entered_ns);
        one["first_byte"] = seconds(entry.first_byte_ns);
        one["last_byte"] = seconds(entry.last_byte_ns);
        one["done"] = seconds(entry.done_ns);
        found.append(one);
    }
    return found;
}

} // namespace

PYBIND11_MODULE(_collectives_torch, m)
{
    if (coll_abi_version() != COLL_ABI_VERSION)
        throw py::import_error(
            "the torch shim was built against another version of libcollectives; "
            "remove its folder from the cache, or run `collectives build-torch`");
    py::module_::import("torch._C._distributed_c10d");
    py::class_<Backend, c10d::Backend, c10::intrusive_ptr<Backend>>(m, "Backend")
        .def(py::init(&make), py::kw_only(), py::arg("group"), py::arg("rank"), py::arg("peers"),
             py::arg("name"), py::arg("timeout"), py::arg("codec"), py::arg("owner"))
        .def_property_readonly("owner",
                               [](const Backend &backend) {
                                   return *static_cast<py::object *>(backend.owner().object.get());
                               })
        .def("get_error", &Backend::getError)
        .def("counts", &counts)
        .def("trace", &trace);
    m.def("stop_completing", &collectives::stop_completing,
          py::call_guard<py::gil_scoped_release>());
}
