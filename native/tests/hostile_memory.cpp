// Damaged memory: whatever a segment holds, every operation ends soon, by returning or by throwing Corrupted, and touches
// nothing outside of what it was given. Bits, bytes and whole structures are damaged, before and after the ends attach,
// and while they work.
//
//   hostile_memory [SEED]        the same damage again
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "counted_memory.hpp"
#include "hostile_port.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

struct Tally {
    std::uint64_t damages = 0;
    std::uint64_t refused_at_attach = 0;
    std::uint64_t found_later = 0;
};
Tally tally;

template <class Call>
bool is_corrupted(Call call) {
    try {
        call();
        return false;
    } catch (const Corrupted&) {
        return true;
    }
}

using Segments = HostileSegment<CountedMemory>;
using Port = HostilePort<CountedMemory>;

// Every operation once, in a random order, and again; then everything that waits is looked for.
void operate(Port& port, Random& random) {
    std::vector<unsigned> order;
    for (unsigned operation = 0; operation < Port::operations; ++operation) order.push_back(operation);
    for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[random.below(left)]);
    order.insert(order.end(), order.begin(), order.end());
    bool found = false;
    for (const unsigned operation : order) found |= is_corrupted([&] { port.operate(operation, random); });
    found |= is_corrupted([&] { port.drain(); });
    tally.found_later += found ? 1 : 0;
}

// One damage, to ends that have worked before, and to ends that attach after it.
void endure(Segments& where, std::uint64_t seed, const std::function<void()>& damage) {
    for (const bool attached_before : {true, false}) {
        Random random(seed);
        where.restore();
        Steps::allow_all();
        auto port = std::make_unique<Port>(where);
        port->work(random, 12 + static_cast<unsigned>(random.below(30)));
        ++tally.damages;
        damage();
        Steps::allow("attach", 1000);
        if (!attached_before && is_corrupted([&] { port = std::make_unique<Port>(where); })) ++tally.refused_at_attach;
        // Where attaching was refused, those that were there before go on.
        operate(*port, random);
    }
}

void describe(const Region& region, const std::string& what) {
    situation = std::string(part_names[static_cast<std::size_t>(region.part)]) + " at " + std::to_string(region.offset) +
                ": " + what;
}

void flip(std::byte* memory, std::size_t bit) { memory[bit / 8] ^= std::byte{1} << static_cast<int>(bit % 8); }

// Every bit of every structure but the statistics, which nothing follows; of those, some.
void every_bit(Segments& where, std::uint64_t seed) {
    for (const Region& region : where.regions) {
        const std::size_t step = region.part == Part::stats ? 4099 : 1;
        for (std::size_t bit = 0; bit < region.bytes * 8; bit += step) {
            describe(region, "bit " + std::to_string(bit));
            endure(where, seed + bit, [&] { flip(where.at(region), bit); });
        }
    }
}

void random_damage(Segments& where, std::uint64_t seed, unsigned rounds) {
    for (unsigned round = 0; round < rounds; ++round) {
        Random random(seed + round);
        const Region& region = where.regions[random.below(where.regions.size())];
        const Region& other = where.regions[random.below(where.regions.size())];
        const std::size_t from = random.below(region.bytes);
        const std::size_t bytes = 1 + random.below(region.bytes - from);
        const unsigned kind = static_cast<unsigned>(random.below(6));
        static const char* const kinds[] = {"flipped bits", "random bytes", "zeros", "ones", "other contents", "small numbers"};
        describe(region, std::string(kinds[kind]) + ", round " + std::to_string(round));
        endure(where, seed ^ round, [&] {
            std::byte* memory = where.at(region);
            switch (kind) {
                case 0:
                    for (std::uint64_t count = 2 + random.below(64); count != 0; --count) {
                        flip(memory, random.below(region.bytes * 8));
                    }
                    break;
                case 1:
                    for (std::size_t at = 0; at < bytes; ++at) memory[from + at] = static_cast<std::byte>(random.next());
                    break;
                case 2: std::memset(memory + from, 0, bytes); break;
                case 3: std::memset(memory + from, 0xff, bytes); break;
                case 4: std::memcpy(memory, where.at(other), std::min(region.bytes, other.bytes)); break;
                default:
                    // Words that look right: positions, indices and sizes of somewhere else.
                    for (std::size_t at = from / 8 * 8; at + 8 <= region.bytes; at += 8) {
                        const std::uint64_t word = random.below(2) << (16 * random.below(4)) | random.below(64);
                        std::memcpy(memory + at, &word, 8);
                    }
            }
        });
    }
}

// In what state a block is and what it was made from decides who waits for whom: no bit of these can be flipped unnoticed.
void hand_overs(Segments& where) {
    Steps::allow_all();
    for (const Region& region : where.regions) {
        if (region.part != Part::slots) continue;
        const std::size_t origin = offsetof(BasicSlot<CountedMemory>, origin) * 8;
        for (std::size_t bit = 0; bit < origin + 64; bit = bit == 3 ? origin : bit + 1) {
            describe(region, "hand-over, bit " + std::to_string(bit));
            where.restore();
            Port port(where);
            port.send_one();
            port.look();
            flip(where.at(region), bit);
            CHECK(is_corrupted([&] { port.look(); }));
        }
    }
}

// Nobody waits for ever for a block whose turn a flipped bit has put off.
void order(Segments& where, std::uint64_t seed) {
    std::uint64_t found = 0;
    std::uint64_t bits = 0;
    for (const Region& region : where.regions) {
        if (region.part != Part::slots && region.part != Part::ring) continue;
        for (std::size_t bit = 0; bit < region.bytes * 8; ++bit, ++bits) {
            describe(region, "order, bit " + std::to_string(bit));
            Random random(seed + bit);
            where.restore();
            Steps::allow_all();
            Port port(where);
            port.work(random, 12 + static_cast<unsigned>(random.below(30)));
            flip(where.at(region), bit);
            found += is_corrupted([&] { port.drain_in_order(); }) ? 1 : 0;
        }
    }
    Steps::allow_all();
    std::printf("hostile_memory: order restored or damage found after each of %llu bits, found %llu times\n",
                static_cast<unsigned long long>(bits), static_cast<unsigned long long>(found));
}

// Constants are known by their fingerprint: none of their bits can be flipped unnoticed before somebody attaches.
void constants(Segments& where) {
    const auto refused = [&](const char* what, const Region& region, std::size_t bytes, const std::function<void()>& attach) {
        for (std::size_t bit = 0; bit < bytes * 8; ++bit) {
            describe(region, std::string(what) + ", bit " + std::to_string(bit));
            where.restore();
            flip(where.at(region), bit);
            CHECK(is_corrupted(attach));
        }
        where.restore();
        attach();
    };
    Steps::allow_all();
    std::size_t rings = 0;
    for (const Region& region : where.regions) {
        switch (region.part) {
            case Part::segment:
                // magic, version and size; not what is reserved.
                refused("magic and version", region, 12, [&] { Segment::attach(duplicate(where.segment->descriptor()), true); });
                refused("size", {region.part, offsetof(SegmentHeader, bytes), 8}, 8,
                        [&] { Segment::attach(duplicate(where.segment->descriptor()), true); });
                break;
            case Part::ring: {
                const std::uint64_t at = where.rings[rings++];
                refused("ring", region, 32, [&] { BasicRing<CountedMemory>(where.segment, at); });
                const BasicRing<CountedMemory> attached(where.segment, at);
                refused("attached ring", region, 32, [&] { attached.verify(); });
                break;
            }
            case Part::pool:
                refused("pool", region, 24, [&] { BasicBufferPool<CountedMemory>(where.segment, where.pool); });
                break;
            default: break;
        }
    }
    // Those of another ring, whole: the place belongs to them.
    where.restore();
    std::memcpy(where.segment->at<std::byte>(where.rings[0]), where.segment->at<std::byte>(where.rings[1]), 64);
    CHECK_THROWS(Corrupted, BasicRing<CountedMemory>(where.segment, where.rings[0]));
    where.restore();
}

// A second thread damages the memory that the first one works in, by writing to the file: no sanitizer takes it for a
// thread of ours that races.
void while_working(std::uint64_t seed, unsigned flips) {
    HostileSegment<SharedMemory> where({{1, 1}, {4, 2}, {6, 3}});
    HostilePort<SharedMemory> port(where);
    std::atomic<bool> done{false};
    std::thread hostile([&] {
        Random random(seed);
        for (unsigned count = 0; count < flips; ++count) {
            const Region& region = where.regions[random.below(where.regions.size())];
            const auto at = static_cast<off_t>(region.offset + random.below(region.bytes));
            std::uint8_t byte = 0;
            CHECK_EQUAL(1, pread(where.segment->descriptor(), &byte, 1, at));
            byte = static_cast<std::uint8_t>(random.chance(4) ? random.next() : byte ^ 1U << random.below(8));
            CHECK_EQUAL(1, pwrite(where.segment->descriptor(), &byte, 1, at));
        }
        done.store(true);
    });
    Random random(seed + 1);
    std::uint64_t found = 0;
    std::uint64_t operations = 0;
    while (!done.load()) {
        const auto operation = static_cast<unsigned>(random.below(Port::operations));
        found += is_corrupted([&] { port.operate(operation, random); }) ? 1 : 0;
        ++operations;
    }
    hostile.join();
    std::printf("hostile_memory: %u bytes changed during %llu operations, of which %llu found damage\n", flips,
                static_cast<unsigned long long>(operations), static_cast<unsigned long long>(found));
}

}  // namespace

int main(int count, char** arguments) {
    const std::uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 0) : 20'250'611;
    std::printf("hostile_memory: seed %llu\n", static_cast<unsigned long long>(seed));
    std::fflush(stdout);
    std::signal(SIGALRM, [](int) { fail(__FILE__, __LINE__, "the whole test", "to end", "no end"); });
    alarm(280);
    {
        Segments small({{1, 1}, {2, 2}, {1, 1}});
        constants(small);
        hand_overs(small);
        every_bit(small, seed);
        Steps::allow_all();
    }
    {
        Segments mixed({{1, 1}, {3, 2}, {6, 3}});
        random_damage(mixed, seed, 4000);
        order(mixed, seed);
    }
    situation = "memory that changes meanwhile";
    while_working(seed, 200'000);
    std::printf("hostile_memory: %llu damages, %llu refused when attaching, %llu found later\n",
                static_cast<unsigned long long>(tally.damages), static_cast<unsigned long long>(tally.refused_at_attach),
                static_cast<unsigned long long>(tally.found_later));
    return 0;
}
