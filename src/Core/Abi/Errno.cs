namespace FramePin.Core.Abi;

/// <summary>Linux error numbers (asm-generic), positive as in <c>errno</c>. <see cref="None"/> is success.</summary>
public enum Errno
{
    None = 0,
    EPERM = 1,
    ENOENT = 2,
    /// <summary>The address space has exited.</summary>
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    EBADF = 9,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    EINVAL = 22,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    ESPIPE = 29,
    ENOSYS = 38,
    EOVERFLOW = 75,
    EOPNOTSUPP = 95,
    EREMOTEIO = 121,
    EHWPOISON = 133,
}
