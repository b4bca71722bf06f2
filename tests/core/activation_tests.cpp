// Activations against the formulas in long double: each element must be the nearest one, or nearly.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "activation.hpp"
#include "checks.hpp"

namespace gpux::tests {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

double value_of(double element) { return element; }
double value_of(float element) { return element; }
double value_of(Half element) { return to_double(element); }
double value_of(BFloat element) { return to_double(element); }

// Significant bits, the exponent of the smallest subnormal, and the largest exponent.
struct Format {
    int bits, min_ulp, max_exponent;
};
constexpr Format format_of(double) { return {53, -1074, 1024}; }
constexpr Format format_of(float) { return {24, -149, 128}; }
constexpr Format format_of(Half) { return {11, -24, 16}; }
constexpr Format format_of(BFloat) { return {8, -133, 128}; }

using Row = std::vector<double>;

std::vector<long double> formula(Activation activation, const Row& row) {
    std::vector<long double> out;
    long double sum = 0;
    long double largest = -std::numeric_limits<long double>::infinity();
    for (const double x : row) {
        largest = std::isnan(x) ? x : std::max(largest, static_cast<long double>(x));
    }
    for (const long double x : row) {
        switch (activation) {
            case Activation::softmax: out.push_back(std::exp(x - largest)); break;
            case Activation::sigmoid: out.push_back(1 / (1 + std::exp(-x))); break;
            // long double's exponents hold the square of every float64.
            case Activation::normalize: out.push_back(x); break;
        }
        sum += activation == Activation::normalize ? x * x : out.back();
    }
    for (long double& x : out) {
        if (activation == Activation::softmax) {
            x /= sum;
        } else if (activation == Activation::normalize && sum != 0) {
            x /= std::sqrt(sum);
        }
    }
    return out;
}

// Whether an element is off by little more than half a unit in the last place: the narrower types show
// one rounding, float64 several.
template <class Element>
bool is_near(Element element, long double wanted) {
    constexpr Format kFormat = format_of(Element{});
    const double found = value_of(element);
    if (std::isnan(wanted)) {
        return std::isnan(found);
    }
    if (!std::isfinite(found)) {
        return found == static_cast<double>(wanted) ||
               std::fabs(wanted) >=
                   std::ldexp(2.0L - std::ldexp(1.0L, -kFormat.bits), kFormat.max_exponent - 1);
    }
    int exponent = 0;
    std::frexp(wanted, &exponent);
    const int ulp = wanted == 0 ? kFormat.min_ulp : std::max(exponent - kFormat.bits, kFormat.min_ulp);
    // In float64: exp() amplifies an error of its argument, down to -745, by as much.
    const long double ulps = kFormat.bits == 53 ? 800.0L : 0.501L;
    return std::fabs(found - wanted) <= std::ldexp(ulps, ulp);
}

template <class Element>
void check_rows(Activation activation, Type type, const std::vector<Row>& rows) {
    const std::size_t size = rows[0].size();
    const std::size_t count = rows.size() * size;
    // Memory of exactly the size, so that the sanitizers see each overrun.
    const std::unique_ptr<Element[]> in(new Element[count]);
    const std::unique_ptr<Element[]> out(new Element[count]);
    std::vector<Row> stored = rows;
    for (std::size_t i = 0; i < count; ++i) {
        (void)store(rows[i / size][i % size], in[i]);
        stored[i / size][i % size] = value_of(in[i]);
    }
    activate(activation, type, rows.size(), size, in.get(), out.get());
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const std::vector<long double> wanted = formula(activation, stored[row]);
        for (std::size_t i = 0; i < size; ++i) {
            const Element found = out[row * size + i];
            check(is_near(found, wanted[i]),
                  "activation " + std::to_string(static_cast<int>(activation)) + " of " +
                      std::to_string(stored[row][i]) + " among " + std::to_string(size) + " of type " +
                      std::to_string(static_cast<int>(type)) + ": " + std::to_string(value_of(found)) +
                      ", not " + std::to_string(wanted[i]));
        }
    }
}

template <class Element>
void test_type(Type type) {
    std::mt19937_64 random(5);
    std::normal_distribution<double> normal;
    for (const Activation activation : {Activation::softmax, Activation::sigmoid, Activation::normalize}) {
        for (const double scale : {1e-30, 1e-3, 1.0, 30.0, 1e3, 1e30, 1e300}) {
            for (const std::size_t size : {1u, 2u, 3u, 10u, 1000u}) {
                std::vector<Row> rows(3, Row(size));
                for (auto& row : rows) {
                    for (double& x : row) {
                        x = scale * normal(random);
                        // Finite in the type: infinities are tested below.
                        Element element;
                        x = store(x, element) ? x : normal(random);
                    }
                }
                check_rows<Element>(activation, type, rows);
            }
        }
        check_rows<Element>(activation, type, {{0.0, 0.0}, {-0.0, 0.0}, {1.0, 1.0}, {-700.0, 700.0}});
        check_rows<Element>(activation, type, {{kNan, 1.0}, {1.0, kNan}, {kNan, kNan}});
        check_rows<Element>(activation, type, {{-kInfinity, 1.0}});
        // No row affects the next.
        check_rows<Element>(activation, type, {{kNan}, {1.0}, {kInfinity}, {2.0}});
    }
    // Known results.
    const auto apply = [&](Activation activation, const Row& row) {
        std::vector<Element> in(row.size());
        std::vector<Element> out(row.size());
        for (std::size_t i = 0; i < row.size(); ++i) {
            (void)store(row[i], in[i]);
        }
        activate(activation, type, 1, row.size(), in.data(), out.data());
        Row values;
        for (const Element element : out) {
            values.push_back(value_of(element));
        }
        return values;
    };
    check(apply(Activation::softmax, {3, 3, 3, 3}) == Row{0.25, 0.25, 0.25, 0.25}, "equal ones");
    check(apply(Activation::softmax, {-kInfinity, 5}) == Row{0, 1}, "one that is impossible");
    check(apply(Activation::sigmoid, {0, kInfinity, -kInfinity}) == Row{0.5, 1, 0}, "the ends");
    check(apply(Activation::normalize, {3, 4}) == apply(Activation::normalize, {6, 8}), "a direction");
    check(apply(Activation::normalize, {0, 0}) == Row{0, 0}, "no direction");
    check(apply(Activation::normalize, {0, -8}) == Row{0, -1}, "one axis");
    check(apply(Activation::softmax, {}).empty(), "no elements");
}

}  // namespace

void test_activations() {
    for_each_float_type([](Type type, auto element) { test_type<decltype(element)>(type); });
}

}  // namespace gpux::tests
