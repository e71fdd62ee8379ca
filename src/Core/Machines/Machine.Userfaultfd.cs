using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>userfaultfd and its ioctls.</summary>
public sealed partial class Machine
{
    /// <summary>userfaultfd(2) with UFFD_FEATURE_SIGBUS; null with -EPERM without CAP_SYS_PTRACE.</summary>
    public Userfaultfd? CreateUserfaultfd(AddressSpace space, out Errno error)
    {
        using var turn = EnterTurn();
        error = space.Exited ? Errno.ESRCH : space.Task.IsAdmin ? Errno.None : Errno.EPERM;
        return error == Errno.None ? new Userfaultfd(space) : null;
    }

    /// <summary>UFFDIO_REGISTER of <paramref name="length"/> bytes.</summary>
    public SyscallResult RegisterUffd(Userfaultfd fd, ulong start, ulong length, UffdModes modes)
    {
        using var turn = EnterTurn();
        return fd.Space.Exited ? Errno.ESRCH : UffdCalls.Register(fd, start, length, modes);
    }

    /// <summary>UFFDIO_UNREGISTER.</summary>
    public SyscallResult UnregisterUffd(Userfaultfd fd, ulong start, ulong length)
    {
        using var turn = EnterTurn();
        return fd.Space.Exited ? Errno.ESRCH : UffdCalls.Unregister(_kernel, fd, start, length);
    }

    /// <summary>UFFDIO_WRITEPROTECT, on or off.</summary>
    public SyscallResult WriteProtectUffd(Userfaultfd fd, ulong start, ulong length, bool isOn)
    {
        using var turn = EnterTurn();
        return fd.Space.Exited ? Errno.ESRCH : UffdCalls.WriteProtect(_kernel, fd, start, length, isOn);
    }

    /// <summary>
    /// UFFDIO_COPY of up to one page to a missing one; UFFDIO_ZEROPAGE without content. The bytes filled, or the errno.
    /// </summary>
    public SyscallResult FillUffd(Userfaultfd fd, ulong address, ReadOnlySpan<byte> content)
    {
        using var turn = EnterTurn();
        return fd.Space.Exited ? Errno.ESRCH : UffdCalls.Fill(_kernel, fd, address, content);
    }

    /// <summary>
    /// UFFDIO_POISON: markers that read as broken memory, in place of nothing. -EEXIST over a page. Source:
    /// mm/userfaultfd.c: mfill_atomic_pte_poison.
    /// </summary>
    public SyscallResult PoisonMarkers(AddressSpace space, ulong address, ulong length)
    {
        using var turn = EnterTurn();
        if (((address | length) & ~PageGeometry.PageMask) != 0 || length == 0) return Errno.EINVAL;
        if (!Profile.HasUffdPoison) return Errno.EINVAL;
        for (var at = address; at < address + length; at += PageGeometry.PageSize)
        {
            if (space.Exited || space.Vmas.Find(at) is null) return SyscallResult.Fail(Errno.ENOENT, at > address);
            var slot = space.PageTable.Ensure(at, 0);
            if (!slot.Exists) return SyscallResult.Fail(Errno.ENOMEM, at > address);
            if (space.PageTable[slot] != 0) return SyscallResult.Fail(Errno.EEXIST, at > address);
            space.PageTable[slot] = PageTables.Pte.UffdPoisonMarker;
        }

        return SyscallResult.Ok();
    }
}
