// Makes each system call and each allocation fail in turn beneath a pool's whole life, each time in a process of its
// own: no crash, no hang, no wrong answer, nothing lost, nothing left open.
//
// usage: each-failure [KIND [FROM [LENGTH [here]]]]
// Without arguments every kind: each system call one by one, and allocations in steps from a random start, once one
// alone and once a few in a row. With a KIND, all its calls one by one, from the FROMth on, LENGTH of them failing in a
// row (1); so `each-failure memory` is the full sweep, and `each-failure memory 71` begins with what failed. A fourth
// argument: only that one, in this process, for a debugger; a breakpoint on faults::it_fails stops where.
#include <netdb.h>
#include <pwd.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "failures.hpp"
#include "scenario.hpp"

namespace {

using faults::Kind;

constexpr int kAtOnce = 4;   // most of the time a life waits for the server
constexpr int kEnough = 10;  // wrong ones, before a sweep ends
constexpr unsigned kLongestLife = 60;
constexpr int kNotReached = 2;  // what a life ends with whose calls were fewer

struct Trial {
    Kind kind;
    long nth, length;
    pid_t process = 0;
};

std::string with_setting(const std::string& url, const std::string& setting) {
    return url + (url.find('?') == std::string::npos ? '?' : '&') + setting;
}

std::string database_url() {
    const char* text = std::getenv("DATABASE_URL");
    if (!text) {
        std::fputs("each-failure wants DATABASE_URL\n", stderr);
        std::exit(1);
    }
    std::string url = text;
    // A name, so that the resolver's thread has work.
    if (const auto at = url.find("127.0.0.1"); at != std::string::npos) url.replace(at, 9, "localhost");
    // What TLS and Kerberos do without memory is theirs.
    return with_setting(with_setting(url, "sslmode=disable"), "gssencmode=disable");
}

// What the C library sets up at its first use: without memory, it ends the process there.
void warm_up() {
    getpwuid(getuid());
    addrinfo* found = nullptr;
    if (getaddrinfo("localhost", nullptr, nullptr, &found) == 0) freeaddrinfo(found);
}

[[noreturn]] void live(const Trial& trial, const std::string& url) {
    alarm(kLongestLife);
    const std::string log_file = "/tmp/pqpool-each-failure." + std::to_string(getpid()) + ".log";
    const int before = faults::open_descriptors();
    faults::arm(trial.kind, trial.nth, trial.length);
    faults::pause();
    faults::live_through(url.c_str(), log_file.c_str());
    const bool reached = faults::counted() >= trial.nth;
    faults::check_what_is_left(before);
    unlink(log_file.c_str());
    _exit(reached ? 0 : kNotReached);
}

void begin(Trial& trial, const std::string& url) {
    std::fflush(nullptr);
    trial.process = fork();
    if (trial.process == 0) live(trial, url);
}

// Waits for one of them. What it ended with: 0, kNotReached, or else something is wrong.
int end_one(std::vector<Trial>& running, Trial& ended) {
    int status = 0;
    const pid_t process = wait(&status);
    const auto found =
        std::find_if(running.begin(), running.end(), [&](const Trial& trial) { return trial.process == process; });
    ended = *found;
    running.erase(found);
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == kNotReached))
        return WEXITSTATUS(status);
    std::fprintf(stderr, "%s: call %ld of %ld in a row: ", faults::name_of(ended.kind), ended.nth, ended.length);
    if (WIFSIGNALED(status))
        std::fprintf(stderr, "%s\n", WTERMSIG(status) == SIGALRM ? "a hang" : strsignal(WTERMSIG(status)));
    else
        std::fprintf(stderr, "exit status %d\n", WEXITSTATUS(status));
    return 1;
}

// Each call from the first on, in steps, until a life has fewer. How many trials went wrong.
int sweep(Kind kind, long first, long step, long length, const std::string& url) {
    std::vector<Trial> running;
    int wrong = 0;
    long next = first, trials = 0;
    bool reached = true;
    while ((reached && wrong < kEnough) || !running.empty()) {
        if (reached && wrong < kEnough && running.size() < kAtOnce) {
            begin(running.emplace_back(Trial{kind, next, length}), url);
            next += step;
            continue;
        }
        Trial ended;
        const int result = end_one(running, ended);
        if (result == kNotReached)
            reached = false;
        else
            trials++;
        wrong += result == 1;
    }
    std::printf("%s: %ld trials, each with %ld failing in a row; %d wrong\n", faults::name_of(kind), trials, length,
                wrong);
    return wrong;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string url = database_url();
    warm_up();
    Kind kind;
    if (argc > 1) {
        if (!faults::kind_of(argv[1], kind)) return std::fprintf(stderr, "there is no kind '%s'\n", argv[1]), 2;
        const long first = argc > 2 ? std::atol(argv[2]) : 1, length = argc > 3 ? std::atol(argv[3]) : 1;
        if (argc > 4) live({kind, first, length}, url);
        return sweep(kind, first, 1, length, url) ? 1 : 0;
    }
    int wrong = 0;
    for (int i = 0; i < faults::kKinds; i++)
        if (kind = static_cast<Kind>(i); kind != Kind::memory && kind != Kind::large_memory)
            wrong += sweep(kind, 1, 1, 1, url);
    constexpr long kStep = 13, kRow = 25;
    std::mt19937 random(std::random_device{}());
    wrong += sweep(Kind::large_memory, 1, 1, 1000, url);
    wrong += sweep(Kind::memory, 1 + static_cast<long>(random() % kStep), kStep, 1, url);
    wrong += sweep(Kind::memory, 1 + static_cast<long>(random() % (3 * kStep)), 3 * kStep, kRow, url);
    return wrong ? 1 : 0;
}
