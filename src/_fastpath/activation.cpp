#include "activation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gpux {
namespace {

double read(double value) { return value; }
double read(float value) { return value; }
double read(Half value) { return to_double(value); }
double read(BFloat value) { return to_double(value); }

// store() refuses what is not finite, but writes it: here it is an answer as any other.
template <class Element>
void write(double number, Element& element) {
    (void)store(number, element);
}

// exp(x - largest) / sum of them: the largest, not the largest magnitude, so that nothing overflows
// and the sum is at least 1.
template <class Element>
void softmax(std::size_t size, const Element* in, Element* out) {
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < size; ++i) {
        largest = std::max(largest, read(in[i]));
    }
    double sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
        sum += std::exp(read(in[i]) - largest);
    }
    for (std::size_t i = 0; i < size; ++i) {
        write(std::exp(read(in[i]) - largest) / sum, out[i]);
    }
}

// By the side on which exp() does not overflow.
double logistic(double x) {
    if (x >= 0.0) {
        return 1.0 / (1.0 + std::exp(-x));
    }
    const double power = std::exp(x);
    return power / (1.0 + power);
}

template <class Element>
void sigmoid(std::size_t size, const Element* in, Element* out) {
    for (std::size_t i = 0; i < size; ++i) {
        write(logistic(read(in[i])), out[i]);
    }
}

// Scaled by a power of two, which is exact, so that the squares neither overflow nor vanish.
template <class Element>
void normalize(std::size_t size, const Element* in, Element* out) {
    double largest = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
        largest = std::max(largest, std::fabs(read(in[i])));
    }
    const int exponent = largest > 0.0 && std::isfinite(largest) ? std::ilogb(largest) : 0;
    double sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
        const double scaled = std::ldexp(read(in[i]), -exponent);
        sum += scaled * scaled;
    }
    const double norm = std::sqrt(sum);
    for (std::size_t i = 0; i < size; ++i) {
        const double x = read(in[i]);
        write(norm == 0.0 ? x : std::ldexp(x, -exponent) / norm, out[i]);
    }
}

template <class Element>
void activate_rows(
    Activation activation, std::size_t rows, std::size_t size, const Element* in, Element* out
) {
    for (std::size_t row = 0; row < rows; ++row, in += size, out += size) {
        switch (activation) {
            case Activation::softmax: softmax(size, in, out); break;
            case Activation::sigmoid: sigmoid(size, in, out); break;
            case Activation::normalize: normalize(size, in, out); break;
        }
    }
}

template <class Element>
void activate_as(
    Activation activation, std::size_t rows, std::size_t size, const void* in, void* out
) {
    activate_rows(
        activation, rows, size, static_cast<const Element*>(in), static_cast<Element*>(out)
    );
}

}  // namespace

void activate(
    Activation activation, Type type, std::size_t rows, std::size_t size, const void* in, void* out
) {
    switch (type) {
        case Type::float64: activate_as<double>(activation, rows, size, in, out); break;
        case Type::float32: activate_as<float>(activation, rows, size, in, out); break;
        case Type::float16: activate_as<Half>(activation, rows, size, in, out); break;
        case Type::bfloat16: activate_as<BFloat>(activation, rows, size, in, out); break;
        default: break;  // the caller has checked that it is a float type
    }
}

}  // namespace gpux
