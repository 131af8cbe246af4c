#include "jack_library.hpp"

#include <dlfcn.h>

#include <type_traits>

namespace steadyflow::probe {

std::string JackLibrary::load() {
    void* library = dlopen("libjack.so.0", RTLD_NOW);  // to the end of the process: JACK's threads run in it
    if (library == nullptr) return dlerror();
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
        void* found = dlsym(library, name);
        if (found == nullptr) missing += std::string(missing.empty() ? "libjack.so.0 has no " : ", ") + name;
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
    };
    find(client_open, "jack_client_open");
    find(client_close, "jack_client_close");
    find(activate, "jack_activate");
    find(set_process_callback, "jack_set_process_callback");
    find(set_xrun_callback, "jack_set_xrun_callback");
    find(set_port_registration_callback, "jack_set_port_registration_callback");
    find(set_port_connect_callback, "jack_set_port_connect_callback");
    find(on_shutdown, "jack_on_shutdown");
    find(port_register, "jack_port_register");
    find(port_get_buffer, "jack_port_get_buffer");
    find(port_name, "jack_port_name");
    find(port_by_name, "jack_port_by_name");
    find(port_get_all_connections, "jack_port_get_all_connections");
    find(get_ports, "jack_get_ports");
    find(connect, "jack_connect");
    find(disconnect, "jack_disconnect");
    find(free, "jack_free");
    find(get_sample_rate, "jack_get_sample_rate");
    find(get_buffer_size, "jack_get_buffer_size");
    find(is_realtime, "jack_is_realtime");
    find(cpu_load, "jack_cpu_load");
    find(last_frame_time, "jack_last_frame_time");
    return missing;
}

}  // namespace steadyflow::probe
