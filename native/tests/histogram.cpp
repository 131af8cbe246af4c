// The histograms of the statistics: bounds of the buckets, relative error, sum and maximum.
#include <memory>

#include "check.hpp"
#include "stats.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

void check_bounds() {
    CHECK_EQUAL(0, histogram_lower(0));
    for (unsigned bucket = 0; bucket < histogram_buckets; ++bucket) {
        const std::uint64_t lower = histogram_lower(bucket);
        const std::uint64_t next = histogram_lower(bucket + 1);
        // No gap and no overlap: the first and the last value of a bucket are in it.
        CHECK(next > lower);
        CHECK_EQUAL(bucket, histogram_bucket(lower));
        CHECK_EQUAL(bucket, histogram_bucket(next - 1));
        const double width = static_cast<double>(next - lower);
        if (bucket < histogram_linear) CHECK_EQUAL(1, next - lower);
        else CHECK(width / static_cast<double>(lower) <= 0.032);
    }
}

void check_error(std::uint64_t value) {
    const unsigned bucket = histogram_bucket(value);
    CHECK(bucket < histogram_buckets);
    const std::uint64_t lower = histogram_lower(bucket);
    const std::uint64_t next = histogram_lower(bucket + 1);
    CHECK(lower <= value);
    CHECK(value < next);
    if (value < histogram_linear) CHECK_EQUAL(value, lower);
    else {
        const double middle = (static_cast<double>(lower) + static_cast<double>(next)) / 2;
        const double off = middle > static_cast<double>(value) ? middle - static_cast<double>(value)
                                                               : static_cast<double>(value) - middle;
        CHECK(off / static_cast<double>(value) <= 0.016);
    }
}

void check_errors() {
    Random random(1);
    for (unsigned round = 0; round < 1'000'000; ++round) {
        // Evenly over the octaves rather than over the values.
        check_error(random.next() >> (22 + random.below(42)));
    }
    for (unsigned exponent = 0; exponent < 42; ++exponent) {
        const std::uint64_t power = std::uint64_t{1} << exponent;
        check_error(power);
        check_error(power - 1);
        check_error(power + 1);
    }
}

void check_ends() {
    // An hour is in range; what is longer counts in the last bucket.
    const std::uint64_t hour_ns = 3'600'000'000'000;
    CHECK(histogram_bucket(hour_ns) < histogram_buckets - 1);
    CHECK_EQUAL(std::uint64_t{1} << 42, histogram_lower(histogram_buckets));
    CHECK_EQUAL(histogram_buckets - 1, histogram_bucket((std::uint64_t{1} << 42) - 1));
    CHECK_EQUAL(histogram_buckets - 1, histogram_bucket(std::uint64_t{1} << 42));
    CHECK_EQUAL(histogram_buckets - 1, histogram_bucket(~std::uint64_t{0}));
}

void check_recording() {
    // Zeroed as shared memory is.
    const auto histogram = std::make_unique<Histogram>();
    histogram->record(-5);
    histogram->record(0);
    histogram->record(63);
    histogram->record(1'000'000);
    histogram->record(1'000'001);
    histogram->record(std::int64_t{1} << 50);
    CHECK_EQUAL(2, histogram->counts[0].load());
    CHECK_EQUAL(1, histogram->counts[63].load());
    CHECK_EQUAL(2, histogram->counts[histogram_bucket(1'000'000)].load());
    CHECK_EQUAL(1, histogram->counts[histogram_buckets - 1].load());
    CHECK_EQUAL(63 + 2'000'001 + (std::uint64_t{1} << 50), histogram->sum.load());
    CHECK_EQUAL(std::uint64_t{1} << 50, histogram->max.load());
    std::uint64_t total = 0;
    for (const Counter& count : histogram->counts) total += count.load();
    CHECK_EQUAL(6, total);
}

}  // namespace

int main() {
    check_bounds();
    check_errors();
    check_ends();
    check_recording();
    std::printf("histogram: %u buckets, every bound and error checked\n", histogram_buckets);
    return 0;
}
