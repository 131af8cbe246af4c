// JACK's client library, found when the program runs: nothing of JACK is needed to build. Declares what of it is used.
#pragma once

#include <cstdint>
#include <string>

namespace steadyflow::probe {

struct JackClient;  // jack_client_t
struct JackPort;    // jack_port_t

struct JackLibrary {
    static constexpr int no_start_server = 1, use_exact_name = 2, server_name = 4;
    static constexpr unsigned long is_input = 1, is_output = 2;
    static constexpr const char* audio = "32 bit float mono audio";

    JackClient* (*client_open)(const char* name, int options, int* status, ...);
    int (*client_close)(JackClient*);
    int (*activate)(JackClient*);
    int (*set_process_callback)(JackClient*, int (*)(std::uint32_t frames, void*), void*);
    int (*set_xrun_callback)(JackClient*, int (*)(void*), void*);
    int (*set_port_registration_callback)(JackClient*, void (*)(std::uint32_t port, int registered, void*), void*);
    int (*set_port_connect_callback)(JackClient*, void (*)(std::uint32_t one, std::uint32_t other, int connected, void*), void*);
    void (*on_shutdown)(JackClient*, void (*)(void*), void*);
    JackPort* (*port_register)(JackClient*, const char* name, const char* type, unsigned long flags, unsigned long size);
    void* (*port_get_buffer)(JackPort*, std::uint32_t frames);
    const char* (*port_name)(const JackPort*);
    JackPort* (*port_by_name)(JackClient*, const char* name);
    const char** (*port_get_all_connections)(const JackClient*, const JackPort*);
    const char** (*get_ports)(JackClient*, const char* name, const char* type, unsigned long flags);
    int (*connect)(JackClient*, const char* source, const char* destination);
    int (*disconnect)(JackClient*, const char* source, const char* destination);
    void (*free)(void*);
    std::uint32_t (*get_sample_rate)(JackClient*);
    std::uint32_t (*get_buffer_size)(JackClient*);
    int (*is_realtime)(JackClient*);
    float (*cpu_load)(JackClient*);
    std::uint32_t (*last_frame_time)(const JackClient*);

    // Returns what is wrong; nothing, if all of it is there.
    std::string load();
};

}  // namespace steadyflow::probe
