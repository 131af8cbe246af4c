#include "lifeline.hpp"

#include <cerrno>
#include <csignal>
#include <pthread.h>
#include <thread>
#include <unistd.h>

namespace steadyflow {

void watch_lifeline(int descriptor) {
    std::thread([descriptor] {
        sigset_t every;
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, nullptr);  // signals belong to Python's main thread
        char byte = 0;
        ssize_t got = 0;
        do {
            got = read(descriptor, &byte, 1);
        } while (got > 0 || (got < 0 && errno == EINTR));
        _exit(70);
    }).detach();
}

}  // namespace steadyflow
