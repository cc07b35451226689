/* A simulated NIC with receive rules, in front of ethtool's ioctl: the table is in the file that RULE_TABLE names,
   shared by all processes that have it.
   It is compiled with the kernel's header, whose layouts it follows; everything else goes to the kernel. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 16

struct table {
    struct ethtool_rx_flow_spec rules[SIZE];
    unsigned char used[SIZE];
};

static struct table *table;

__attribute__((constructor)) static void open_table(void)
{
    const char *path = getenv("RULE_TABLE");
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file < 0 || ftruncate(file, sizeof(struct table)))
        return;
    void *memory = mmap(NULL, sizeof(struct table), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED)
        table = memory;
    close(file);
}

static int failed(int number)
{
    errno = number;
    return -1;
}

static int used(struct ethtool_rxnfc *request)
{
    int count = 0;
    for (__u32 at = 0; at < SIZE; at++) {
        if (!table->used[at])
            continue;
        if (request->cmd == ETHTOOL_GRXCLSRLALL) {
            if ((__u32)count == request->rule_cnt)
                return failed(EMSGSIZE);
            request->rule_locs[count] = at;
        }
        count++;
    }
    request->rule_cnt = count;
    request->data = SIZE;
    return 0;
}

static int one(struct ethtool_rxnfc *request)
{
    __u32 at = request->fs.location;
    if (at >= SIZE)
        return failed(EINVAL);
    if (request->cmd == ETHTOOL_SRXCLSRLINS) {
        table->rules[at] = request->fs;
        table->used[at] = 1;
        return 0;
    }
    if (!table->used[at])
        return failed(ENOENT);
    if (request->cmd == ETHTOOL_SRXCLSRLDEL)
        table->used[at] = 0;
    else
        request->fs = table->rules[at];
    return 0;
}

int ioctl(int socket, unsigned long number, ...)
{
    va_list arguments;
    va_start(arguments, number);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (table && number == SIOCETHTOOL) {
        struct ethtool_rxnfc *request = (void *)((struct ifreq *)argument)->ifr_data;
        switch (request->cmd) {
        case ETHTOOL_GFLAGS:
            ((struct ethtool_value *)request)->data = ETH_FLAG_NTUPLE;
            return 0;
        case ETHTOOL_GRXCLSRLCNT:
        case ETHTOOL_GRXCLSRLALL:
            return used(request);
        case ETHTOOL_GRXCLSRULE:
        case ETHTOOL_SRXCLSRLINS:
        case ETHTOOL_SRXCLSRLDEL:
            return one(request);
        }
    }
    int (*kernel)(int, unsigned long, void *) = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
    return kernel(socket, number, argument);
}
