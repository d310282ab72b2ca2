#include "ptx.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "check.h"
#include "emulation.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace ptx {
namespace {

using u32 = uint32_t;
using u64 = uint64_t;
using u128 = unsigned __int128;

enum class Op : uint8_t {
  ADD, SUB, MUL_LO, MUL_HI, MUL_WIDE, MAD_LO, MAD_HI, MAD_WIDE, DIV, REM, MIN, MAX, NEG, ABS, AND, OR, XOR, NOT,
  SHL, SHR, SHF_L, SHF_R, PRMT, LOP3, BREV, POPC, CLZ, BFE, BFI, SETP, SELP, MOV, PACK, UNPACK, SPECIAL, CVT, TO_GENERIC,
  FROM_GENERIC, LOAD_PARAM, LOAD, STORE, ATOM_ADD, BRANCH, RETURN, BARRIER, WARP_BARRIER, SHUFFLE, BALLOT, MULTIPLY_BYTES, FENCE,
};
enum class Space : uint8_t { GENERIC, SHARED };
enum class Compare : uint8_t { EQ, NE, LT, LE, GT, GE };
enum class Shuffle : uint8_t { UP, DOWN, XOR, INDEX };

// Operands are slots of one register file, constants too. Slot 0 takes what nobody reads.
struct Instruction {
  Op op;
  uint8_t bits = 32, source_bits = 0, vector = 1, sub = 0;
  bool is_signed = false, source_signed = false, carry_in = false, carry_out = false, unless = false;
  Space space = Space::GENERIC;
  u32 predicate = 0, d = 0, a = 0, b = 0, c = 0, e = 0;
  u32 list[4] = {};
  int64_t offset = 0;
  size_t target = 0;
  int line = 0;
};

[[noreturn]] void die(const std::string &what, const std::string &where) {
  fprintf(stderr, "ptx: %s: `%s`\n", what.c_str(), where.c_str());
  abort();
}
std::string trim(const std::string &s) {
  const size_t first = s.find_first_not_of(" \t\r\n"), last = s.find_last_not_of(" \t\r\n");
  return first == std::string::npos ? "" : s.substr(first, last - first + 1);
}
// Parts between separators that are not within brackets.
std::vector<std::string> split(const std::string &s, char separator) {
  std::vector<std::string> parts;
  std::string part;
  int depth = 0;
  for (char c : s) {
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c == separator && !depth) {
      parts.push_back(trim(part));
      part.clear();
    } else {
      part += c;
    }
  }
  if (!trim(part).empty()) parts.push_back(trim(part));
  return parts;
}
u64 mask(unsigned bits) { return bits == 64 ? ~0ull : (1ull << bits) - 1; }
int64_t extend(u64 v, unsigned bits) { return bits == 64 ? int64_t(v) : int64_t(v << (64 - bits)) >> (64 - bits); }

size_t entry_of(const std::string &module, const std::string &name) { return module.find(".entry " + name + "("); }

const std::unordered_map<std::string, int> SPECIALS = {
    {"%tid.x", 0},   {"%tid.y", 1},   {"%tid.z", 2},   {"%ntid.x", 3},   {"%ntid.y", 4},   {"%ntid.z", 5},
    {"%ctaid.x", 6}, {"%ctaid.y", 7}, {"%ctaid.z", 8}, {"%nctaid.x", 9}, {"%nctaid.y", 10}, {"%nctaid.z", 11},
    {"%laneid", 12}};

}  // namespace

struct Program {
  std::string name;
  std::vector<Instruction> code;
  std::vector<u64> registers = {0};  // as a thread finds them: constants filled in
};

bool signature(const std::string &module, const std::string &name, Signature *out) {
  const size_t at = entry_of(module, name);
  if (at == std::string::npos) return false;
  const size_t close = module.find(')', at), body = module.find('{', at);
  out->argument_sizes.clear();
  for (size_t i = module.find(".param", at); i < close; i = module.find(".param", i + 1)) {
    const std::string parameter = module.substr(i, module.find_first_of(",)", i) - i);
    const size_t bracket = parameter.find('['), type = parameter.find_last_of('.');
    out->argument_sizes.push_back(bracket != std::string::npos ? size_t(atoi(parameter.c_str() + bracket + 1))
                                                               : size_t(atoi(parameter.c_str() + type + 2)) / 8);
  }
  const size_t limit = module.find(".maxntid", close);
  out->max_threads = limit < body ? atoi(module.c_str() + limit + 8) : 1024;
  return true;
}

namespace {

class Decoder {
 public:
  Decoder(const std::string &module, const std::string &name) : program(std::make_shared<Program>()) {
    program->name = name;
    const size_t at = entry_of(module, name), body = module.find('{', at);
    if (at == std::string::npos) die("no such entry", name);
    size_t end = body;
    for (int depth = 0; end < module.size(); end++) {
      depth += (module[end] == '{') - (module[end] == '}');
      if (!depth) break;
    }
    for (size_t i = module.find(".param", at); i < body; i = module.find(".param", i + 1)) {
      const std::string text = trim(module.substr(i, module.find_first_of(",)", i) - i));
      const std::string last = text.substr(text.find_last_of(" \t") + 1);
      const u64 number = parameters.size();
      parameters[last.substr(0, last.find('['))] = number;
    }
    std::string statement;
    for (size_t i = body + 1; i < end; i++) {
      line += module[i] == '\n';
      if (module[i] == '/' && module[i + 1] == '/') {
        while (i + 1 < end && module[i + 1] != '\n') i++;
      } else if (module[i] == ';') {
        decode(trim(statement));
        statement.clear();
      } else if (module[i] == ':' && module[i + 1] != ':') {
        labels[trim(statement)] = program->code.size();
        statement.clear();
      } else {
        statement += module[i];
      }
    }
    for (auto &[instruction, label] : jumps) {
      if (!labels.count(label)) die("no such label", label);
      program->code[instruction].target = labels[label];
    }
  }
  std::shared_ptr<Program> program;

 private:
  std::unordered_map<std::string, u32> slots;
  std::unordered_map<std::string, u64> parameters;
  std::unordered_map<std::string, size_t> labels;
  std::vector<std::pair<size_t, std::string>> jumps;
  std::string text;
  int line = 0;

  u32 slot(const std::string &name) {
    if (name == "_") return 0;
    auto [found, fresh] = slots.try_emplace(name, program->registers.size());
    if (fresh) {
      u64 value = 0;
      if (name[0] != '%') {
        if (name == "lamina_shared") {
          value = 0;  // dynamic shared memory begins at 0
        } else {
          char *rest;
          value = name[0] == '-' ? u64(strtoll(name.c_str(), &rest, 0)) : strtoull(name.c_str(), &rest, 0);
          if (*rest && strcmp(rest, "U")) die("operand " + name, text);
        }
      }
      program->registers.push_back(value);
    }
    return found->second;
  }
  void address(const std::string &operand, Instruction &in) {
    const std::string inner = trim(operand.substr(1, operand.size() - 2));
    const size_t plus = inner.find('+');
    in.a = slot(trim(inner.substr(0, plus)));
    if (plus != std::string::npos) in.offset = strtoll(inner.c_str() + plus + 1, nullptr, 0);
  }
  void vector(const std::string &operand, Instruction &in) {
    if (operand[0] != '{') {
      in.list[0] = slot(operand);
      return;
    }
    const auto parts = split(operand.substr(1, operand.size() - 2), ',');
    in.vector = uint8_t(parts.size());
    for (size_t i = 0; i < parts.size(); i++) in.list[i] = slot(parts[i]);
  }
  bool type(const std::string &name, uint8_t &bits, bool &is_signed) {
    if (name == "pred") {
      bits = 1;
      return true;
    }
    if (name.size() < 2 || !strchr("usb", name[0])) return false;
    bits = uint8_t(atoi(name.c_str() + 1));
    is_signed = name[0] == 's';
    return bits == 8 || bits == 16 || bits == 32 || bits == 64;
  }

  void decode(std::string statement) {
    if (statement.empty() || statement.rfind(".reg", 0) == 0 || statement.rfind(".pragma", 0) == 0) return;
    text = statement;
    Instruction in{};
    in.vector = 1;
    in.bits = 32;
    in.line = line;
    if (statement[0] == '@') {
      const size_t space = statement.find_first_of(" \t");
      in.unless = statement[1] == '!';
      in.predicate = slot(statement.substr(1 + in.unless, space - 1 - in.unless));
      statement = trim(statement.substr(space));
    }
    const size_t space = statement.find_first_of(" \t\n");
    const auto name = split(statement.substr(0, space), '.');
    const auto operands = split(space == std::string::npos ? "" : statement.substr(space), ',');
    const std::string &op = name[0];
    auto has = [&](const char *modifier) {
      for (size_t i = 1; i < name.size(); i++)
        if (name[i] == modifier) return true;
      return false;
    };
    auto operand = [&](size_t i) -> const std::string & {
      if (i >= operands.size()) die("too few operands", text);
      return operands[i];
    };
    auto values = [&](Op kind, int count) {
      in.op = kind;
      in.d = slot(operand(0));
      u32 *const to[] = {&in.a, &in.b, &in.c, &in.e};
      for (int i = 0; i < count; i++) *to[i] = slot(operand(size_t(i) + 1));
    };
    const bool typed = name.size() > 1 && type(name.back(), in.bits, in.is_signed);
    const bool needs_type = op != "bra" && op != "ret" && op != "exit" && op != "bar" && op != "barrier" && op != "membar" && op != "fence";
    if (needs_type && !typed) die("type", text);
    in.carry_out = has("cc");
    in.carry_in = op == "addc" || op == "subc" || op == "madc";

    if (op == "add" || op == "addc") values(Op::ADD, 2);
    else if (op == "sub" || op == "subc") values(Op::SUB, 2);
    else if (op == "mul") values(has("wide") ? Op::MUL_WIDE : has("hi") ? Op::MUL_HI : Op::MUL_LO, 2);
    else if (op == "mad" || op == "madc") values(has("wide") ? Op::MAD_WIDE : has("hi") ? Op::MAD_HI : Op::MAD_LO, 3);
    else if (op == "div") values(Op::DIV, 2);
    else if (op == "rem") values(Op::REM, 2);
    else if (op == "min") values(Op::MIN, 2);
    else if (op == "max") values(Op::MAX, 2);
    else if (op == "neg") values(Op::NEG, 1);
    else if (op == "abs") values(Op::ABS, 1);
    else if (op == "and") values(Op::AND, 2);
    else if (op == "or") values(Op::OR, 2);
    else if (op == "xor") values(Op::XOR, 2);
    else if (op == "not") values(Op::NOT, 1);
    else if (op == "shl") values(Op::SHL, 2);
    else if (op == "shr") values(Op::SHR, 2);
    else if (op == "shf" && has("wrap")) values(has("l") ? Op::SHF_L : Op::SHF_R, 3);
    else if (op == "prmt" && name.size() == 2) values(Op::PRMT, 3);
    else if (op == "lop3") values(Op::LOP3, 4);
    else if (op == "brev") values(Op::BREV, 1);
    else if (op == "popc") values(Op::POPC, 1);
    else if (op == "clz") values(Op::CLZ, 1);
    else if (op == "bfe" && !in.is_signed) values(Op::BFE, 3);
    else if (op == "bfi") values(Op::BFI, 4);
    else if (op == "selp") values(Op::SELP, 3);
    else if (op == "setp" && name.size() == 3) {
      values(Op::SETP, 2);
      static const std::unordered_map<std::string, Compare> compare = {
          {"eq", Compare::EQ}, {"ne", Compare::NE}, {"lt", Compare::LT}, {"le", Compare::LE}, {"gt", Compare::GT},
          {"ge", Compare::GE}, {"lo", Compare::LT}, {"ls", Compare::LE}, {"hi", Compare::GT}, {"hs", Compare::GE}};
      const auto found = compare.find(name[1]);
      if (found == compare.end()) die("comparison", text);
      in.sub = uint8_t(found->second);
    } else if (op == "mov") {
      const auto special = SPECIALS.find(operand(1));
      if (special != SPECIALS.end()) {
        in.op = Op::SPECIAL;
        in.d = slot(operand(0));
        in.sub = uint8_t(special->second);
      } else if (operand(1)[0] == '{') {
        in.op = Op::PACK;
        in.d = slot(operand(0));
        vector(operand(1), in);
      } else if (operand(0)[0] == '{') {
        in.op = Op::UNPACK;
        in.a = slot(operand(1));
        vector(operand(0), in);
      } else {
        values(Op::MOV, 1);
      }
    } else if (op == "cvta") {
      if (has("global")) values(Op::MOV, 1);
      else if (has("shared")) values(has("to") ? Op::FROM_GENERIC : Op::TO_GENERIC, 1);
      else die("address space", text);
    } else if (op == "cvt" && name.size() == 3) {
      values(Op::CVT, 1);
      if (!type(name[1], in.bits, in.is_signed) || !type(name[2], in.source_bits, in.source_signed)) die("type", text);
    } else if (op == "ld" && has("param")) {
      in.op = Op::LOAD_PARAM;
      vector(operand(0), in);
      const std::string inner = operand(1).substr(1, operand(1).size() - 2);
      const size_t plus = inner.find('+');
      const auto found = parameters.find(trim(inner.substr(0, plus)));
      if (found == parameters.end()) die("parameter", text);
      in.target = found->second;
      if (plus != std::string::npos) in.offset = strtoll(inner.c_str() + plus + 1, nullptr, 0);
    } else if (op == "ld" || op == "st") {
      if (has("local") || has("const")) die("address space", text);
      in.op = op == "ld" ? Op::LOAD : Op::STORE;
      in.space = has("shared") ? Space::SHARED : Space::GENERIC;
      vector(operand(op == "ld" ? 0 : 1), in);
      address(operand(op == "ld" ? 1 : 0), in);
    } else if ((op == "atom" || op == "red") && has("add")) {
      const size_t at = op == "atom";
      in.op = Op::ATOM_ADD;
      in.space = has("shared") ? Space::SHARED : Space::GENERIC;
      in.d = at ? slot(operand(0)) : 0;
      address(operand(at), in);
      in.b = slot(operand(at + 1));
    } else if (op == "bra") {
      in.op = Op::BRANCH;
      jumps.push_back({program->code.size(), operand(0)});
    } else if (op == "ret" || op == "exit") {
      in.op = Op::RETURN;
    } else if ((op == "bar" || op == "barrier") && has("sync") && has("warp")) {
      in.op = Op::WARP_BARRIER;
      in.a = slot(operand(0));
    } else if ((op == "bar" || op == "barrier") && has("sync") && operands.size() == 1 && operands[0] == "0") {
      in.op = Op::BARRIER;
    } else if (op == "membar" || op == "fence") {
      in.op = Op::FENCE;
    } else if (op == "shfl" && has("sync")) {
      in.op = Op::SHUFFLE;
      const std::string &to = operand(0);
      const size_t bar = to.find('|');
      in.d = slot(to.substr(0, bar));
      if (bar != std::string::npos) in.list[0] = slot(to.substr(bar + 1));
      in.a = slot(operand(1));
      in.b = slot(operand(2));
      in.c = slot(operand(3));
      in.e = slot(operand(4));
      in.sub = uint8_t(has("up") ? Shuffle::UP : has("down") ? Shuffle::DOWN : has("bfly") ? Shuffle::XOR : Shuffle::INDEX);
    } else if (op == "vote" && has("ballot")) {
      values(Op::BALLOT, 2);
    } else if (statement.substr(0, space) == "mma.sync.aligned.m8n8k16.row.col.s32.u8.u8.s32") {
      // Two words of the sum, one of each factor, two words of what is added.
      in.op = Op::MULTIPLY_BYTES;
      vector(operand(0), in);
      in.d = in.list[0];
      in.e = in.list[1];
      vector(operand(1), in);
      in.a = in.list[0];
      vector(operand(2), in);
      in.b = in.list[0];
      vector(operand(3), in);
    } else {
      die("not covered", text);
    }
    program->code.push_back(in);
  }
};

}  // namespace

std::shared_ptr<const Program> decode(const std::string &module, const std::string &name) {
  return Decoder(module, name).program;
}

void run(const Program &program, void **arguments) {
  std::vector<u64> r = program.registers;
  bool carry = false;
  char *const shared = static_cast<char *>(emulation::shared_memory());
  const emulation::Self &self = emulation::self();
  const char *const name = program.name.c_str();
  const bool checked = check::enabled();
  for (size_t pc = 0; pc < program.code.size(); pc++) {
    const Instruction &in = program.code[pc];
    if (in.predicate && (r[in.predicate] != 0) == in.unless) continue;
    const unsigned bits = in.bits;
    const u64 all = mask(bits), a = r[in.a], b = r[in.b], c = r[in.c];
    auto put = [&](u64 value) { r[in.d] = value & all; };
    auto add = [&](u64 x, u64 y) {
      const u128 sum = u128(x & all) + (y & all) + (in.carry_in && carry);
      if (in.carry_out) carry = sum >> bits & 1;
      put(u64(sum));
    };
    auto less = [&](u64 x, u64 y) { return in.is_signed ? extend(x, bits) < extend(y, bits) : (x & all) < (y & all); };
    auto high = [&] {
      return in.is_signed ? u64((__int128(extend(a, bits)) * extend(b, bits)) >> bits) : u64((u128(a & all) * (b & all)) >> bits);
    };
    auto wide = [&] { return in.is_signed ? u64(extend(a, bits) * extend(b, bits)) : (a & all) * (b & all); };
    auto memory = [&](unsigned bytes, check::Access kind) {
      const u64 at = a + u64(in.offset);
      if (in.space == Space::SHARED && u32(at) + size_t(bytes) > emulation::shared_size()) {
        fprintf(stderr, "ptx: %s:%d: beyond shared memory\n", name, in.line);
        abort();
      }
      char *const p = in.space == Space::SHARED ? shared + u32(at) : reinterpret_cast<char *>(at);
      if (reinterpret_cast<uintptr_t>(p) % bytes) {
        fprintf(stderr, "ptx: %s:%d: a misaligned access of %u bytes\n", name, in.line, bytes);
        abort();
      }
      if (checked) check::access(p, bytes, kind, name, uintptr_t(in.line));
      return p;
    };
    auto load = [&](const char *from) {
      for (unsigned i = 0; i < in.vector; i++) {
        u64 value = 0;
        memcpy(&value, from + i * bits / 8, bits / 8);
        r[in.list[i]] = in.is_signed ? u64(extend(value, bits)) : value;
      }
    };
    switch (in.op) {
      case Op::ADD: add(a, b); break;
      case Op::SUB: {
        const u128 difference = u128(a & all) - (b & all) - (in.carry_in && carry);
        if (in.carry_out) carry = difference >> bits & 1;
        put(u64(difference));
        break;
      }
      case Op::MUL_LO: put(a * b); break;
      case Op::MUL_HI: put(high()); break;
      case Op::MUL_WIDE: r[in.d] = wide() & mask(2 * bits); break;
      case Op::MAD_LO: add(a * b, c); break;
      case Op::MAD_HI: add(high(), c); break;
      case Op::MAD_WIDE: r[in.d] = (wide() + c) & mask(2 * bits); break;
      case Op::DIV:
      case Op::REM: {
        if (!(b & all)) {
          fprintf(stderr, "ptx: %s:%d: division by zero\n", name, in.line);
          abort();
        }
        const bool quotient = in.op == Op::DIV;
        if (in.is_signed) put(u64(quotient ? extend(a, bits) / extend(b, bits) : extend(a, bits) % extend(b, bits)));
        else put(quotient ? (a & all) / (b & all) : (a & all) % (b & all));
        break;
      }
      case Op::MIN: put(less(a, b) ? a : b); break;
      case Op::MAX: put(less(a, b) ? b : a); break;
      case Op::NEG: put(0 - a); break;
      case Op::ABS: put(extend(a, bits) < 0 ? 0 - a : a); break;
      case Op::AND: put(a & b); break;
      case Op::OR: put(a | b); break;
      case Op::XOR: put(a ^ b); break;
      case Op::NOT: put(~a); break;
      case Op::SHL: put(u32(b) >= bits ? 0 : a << u32(b)); break;
      case Op::SHR: {
        const unsigned by = u32(b) >= bits ? bits : u32(b);
        if (in.is_signed) put(u64(extend(a, bits) >> (by == bits ? bits - 1 : by)));
        else put(by == bits ? 0 : (a & all) >> by);
        break;
      }
      case Op::SHF_L: put(((b << 32 | u32(a)) << (c & 31)) >> 32); break;
      case Op::SHF_R: put((b << 32 | u32(a)) >> (c & 31)); break;
      case Op::PRMT: {
        const u64 bytes = b << 32 | u32(a);
        u32 result = 0;
        for (unsigned i = 0; i < 4; i++) {
          const u32 selector = u32(c) >> (4 * i) & 15, byte = u32(bytes >> (8 * (selector & 7))) & 255;
          result |= (selector & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * i);
        }
        put(result);
        break;
      }
      case Op::LOP3: {
        u32 result = 0;
        const u32 table = u32(r[in.e]), x = u32(a), y = u32(b), z = u32(c);
        for (unsigned i = 0; i < 32; i++)
          result |= (table >> ((x >> i & 1) << 2 | (y >> i & 1) << 1 | (z >> i & 1)) & 1) << i;
        put(result);
        break;
      }
      case Op::BREV: {
        u64 result = 0;
        for (unsigned i = 0; i < bits; i++) result |= (a >> i & 1) << (bits - 1 - i);
        put(result);
        break;
      }
      case Op::POPC: r[in.d] = u64(__builtin_popcountll(a & all)); break;
      case Op::CLZ: r[in.d] = a & all ? u64(__builtin_clzll(a & all)) - (64 - bits) : bits; break;
      case Op::BFE: {
        const unsigned from = b & 255, count = c & 255;
        put(from >= bits ? 0 : (a & all) >> from & (count >= bits ? ~0ull : mask(count)));
        break;
      }
      case Op::BFI: {
        const unsigned from = c & 255, count = r[in.e] & 255;
        const u64 place = from >= bits ? 0 : (count >= bits ? all : mask(count)) << from & all;
        put((b & ~place) | (from >= bits ? 0 : a << from & place));
        break;
      }
      case Op::SETP: {
        bool result = false;
        switch (Compare(in.sub)) {
          case Compare::EQ: result = (a & all) == (b & all); break;
          case Compare::NE: result = (a & all) != (b & all); break;
          case Compare::LT: result = less(a, b); break;
          case Compare::LE: result = !less(b, a); break;
          case Compare::GT: result = less(b, a); break;
          case Compare::GE: result = !less(a, b); break;
        }
        r[in.d] = result;
        break;
      }
      case Op::SELP: put(c ? a : b); break;
      case Op::MOV: put(a); break;
      case Op::PACK: {
        const unsigned width = bits / in.vector;
        u64 value = 0;
        for (unsigned i = 0; i < in.vector; i++) value |= (r[in.list[i]] & mask(width)) << (width * i);
        put(value);
        break;
      }
      case Op::UNPACK:
        for (unsigned i = 0; i < in.vector; i++) r[in.list[i]] = a >> (bits / in.vector * i) & mask(bits / in.vector);
        break;
      case Op::SPECIAL: {
        const unsigned values[] = {self.thread.x,     self.thread.y,     self.thread.z,     self.block_size.x, self.block_size.y,
                                   self.block_size.z, self.block.x,      self.block.y,      self.block.z,      self.grid_size.x,
                                   self.grid_size.y,  self.grid_size.z,  self.lane};
        put(values[in.sub]);
        break;
      }
      case Op::CVT: put(in.source_signed ? u64(extend(a, in.source_bits)) : a & mask(in.source_bits)); break;
      case Op::TO_GENERIC: put(reinterpret_cast<u64>(shared) + a); break;
      case Op::FROM_GENERIC: put(a - reinterpret_cast<u64>(shared)); break;
      case Op::LOAD_PARAM: load(static_cast<const char *>(arguments[in.target]) + in.offset); break;
      case Op::LOAD: load(memory(in.vector * bits / 8, check::Access::READ)); break;
      case Op::STORE: {
        char *const to = memory(in.vector * bits / 8, check::Access::WRITE);
        for (unsigned i = 0; i < in.vector; i++) memcpy(to + i * bits / 8, &r[in.list[i]], bits / 8);
        break;
      }
      case Op::ATOM_ADD: {
        char *const at = memory(bits / 8, check::Access::ATOMIC);
        u64 old = 0;
        memcpy(&old, at, bits / 8);
        const u64 sum = old + b;
        memcpy(at, &sum, bits / 8);
        put(old);
        break;
      }
      case Op::BRANCH: pc = in.target - 1; break;
      case Op::RETURN: return;
      case Op::BARRIER: emulation::sync_block(name, in.line); break;
      case Op::WARP_BARRIER: emulation::sync_warp(u32(a), name, in.line); break;
      case Op::FENCE: break;
      case Op::SHUFFLE: {
        const unsigned lane = self.lane, by = b & 31, clamp = c & 31, segment = c >> 8 & 31;
        const unsigned last = (lane & segment) | (clamp & ~segment), first = lane & segment;
        unsigned from = 0;
        bool valid = false;
        switch (Shuffle(in.sub)) {
          case Shuffle::UP: from = lane - by; valid = int(from) >= int(last); break;
          case Shuffle::DOWN: from = lane + by; valid = from <= last; break;
          case Shuffle::XOR: from = lane ^ by; valid = from <= last; break;
          case Shuffle::INDEX: from = first | (by & ~segment); valid = from <= last; break;
        }
        r[in.d] = u32(emulation::exchange(u32(r[in.e]), a, valid ? from : lane, name, in.line));
        r[in.list[0]] = valid;
        break;
      }
      case Op::MULTIPLY_BYTES: {
        u32 sum[2] = {u32(r[in.list[0]]), u32(r[in.list[1]])};
        emulation::multiply_bytes(sum, u32(a), u32(b), name, in.line);
        r[in.d] = sum[0];
        r[in.e] = sum[1];
        break;
      }
      case Op::BALLOT: r[in.d] = emulation::ballot(u32(b), a != 0, name, in.line); break;
    }
  }
}

}  // namespace ptx
