// Activations, beside the formulas in long double: each element must be the one nearest to it, or as
// good as that.
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

// Significant bits, the place of the last bit of the smallest values, and the largest exponent.
template <class Element>
struct Format;
template <>
struct Format<double> { static constexpr int kBits = 53, kLeast = -1074, kMost = 1024; };
template <>
struct Format<float> { static constexpr int kBits = 24, kLeast = -149, kMost = 128; };
template <>
struct Format<Half> { static constexpr int kBits = 11, kLeast = -24, kMost = 16; };
template <>
struct Format<BFloat> { static constexpr int kBits = 8, kLeast = -133, kMost = 128; };

std::vector<long double> formula(Activation activation, const std::vector<double>& row) {
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
            // Its exponents reach beyond the squares of every float64.
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

// Whether what was answered is at most a little more than half of its last place off: a float64 has
// been through some roundings, the others through no more than one that shows.
template <class Element>
bool is_near(Element element, long double wanted) {
    using F = Format<Element>;
    const double found = value_of(element);
    if (std::isnan(wanted)) {
        return std::isnan(found);
    }
    if (!std::isfinite(found)) {
        return found == static_cast<double>(wanted) ||
               std::fabs(wanted) >= std::ldexp(2.0L - std::ldexp(1.0L, -F::kBits), F::kMost - 1);
    }
    int exponent = 0;
    std::frexp(wanted, &exponent);
    const int place = wanted == 0 ? F::kLeast : std::max(exponent - F::kBits, F::kLeast);
    // In float64: exp() of up to -745 passes an error of its argument on as many times as large.
    const long double places = F::kBits == 53 ? 800.0L : 0.501L;
    return std::fabs(found - wanted) <= std::ldexp(places, place);
}

template <class Element>
void check_rows(Activation activation, Type type, const std::vector<std::vector<double>>& rows) {
    const std::size_t size = rows[0].size();
    const std::size_t count = rows.size() * size;
    // Memory of exactly the size, of both sides.
    const std::unique_ptr<Element[]> in(new Element[count]);
    const std::unique_ptr<Element[]> out(new Element[count]);
    std::vector<std::vector<double>> taken = rows;
    for (std::size_t i = 0; i < count; ++i) {
        (void)store(rows[i / size][i % size], in[i]);
        taken[i / size][i % size] = value_of(in[i]);
    }
    activate(activation, type, rows.size(), size, in.get(), out.get());
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const std::vector<long double> wanted = formula(activation, taken[row]);
        for (std::size_t i = 0; i < size; ++i) {
            const Element found = out[row * size + i];
            check(
                is_near(found, wanted[i]),
                "activation " + std::to_string(static_cast<int>(activation)) + " of " +
                    std::to_string(taken[row][i]) + " among " + std::to_string(size) + " of type " +
                    std::to_string(static_cast<int>(type)) + ": " + std::to_string(value_of(found)) +
                    ", not " + std::to_string(wanted[i])
            );
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
                std::vector<std::vector<double>> rows(3, std::vector<double>(size));
                for (auto& row : rows) {
                    for (double& x : row) {
                        x = scale * normal(random);
                        // Finite in the type: infinities have rows of their own.
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
        // Of one row nothing goes into the next.
        check_rows<Element>(activation, type, {{kNan}, {1.0}, {kInfinity}, {2.0}});
    }
    // By hand.
    const auto answer = [&](Activation activation, std::vector<double> row) {
        std::vector<Element> in(row.size());
        std::vector<Element> out(row.size());
        for (std::size_t i = 0; i < row.size(); ++i) {
            (void)store(row[i], in[i]);
        }
        activate(activation, type, 1, row.size(), in.data(), out.data());
        std::vector<double> values;
        for (const Element element : out) {
            values.push_back(value_of(element));
        }
        return values;
    };
    using Row = std::vector<double>;
    check(answer(Activation::softmax, {3, 3, 3, 3}) == Row{0.25, 0.25, 0.25, 0.25}, "equal ones");
    check(answer(Activation::softmax, {-kInfinity, 5}) == Row{0, 1}, "one that is impossible");
    check(answer(Activation::sigmoid, {0, kInfinity, -kInfinity}) == Row{0.5, 1, 0}, "the ends");
    check(answer(Activation::normalize, {3, 4}) == answer(Activation::normalize, {6, 8}), "a direction");
    check(answer(Activation::normalize, {0, 0}) == Row{0, 0}, "no direction");
    check(answer(Activation::normalize, {0, -8}) == Row{0, -1}, "one axis");
    check(answer(Activation::softmax, {}).empty(), "no elements");
}

}  // namespace

void test_activations() {
    test_type<double>(Type::float64);
    test_type<float>(Type::float32);
    test_type<Half>(Type::float16);
    test_type<BFloat>(Type::bfloat16);
}

}  // namespace gpux::tests
