using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>userfaultfd(2) with UFFD_FEATURE_SIGBUS. -EPERM without CAP_SYS_PTRACE.</summary>
/// <returns>The number of the userfaultfd.</returns>
public readonly record struct CreateUffdCall(SpaceId Space) : ISyscall<CreateUffdCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        if (!space.Task.IsAdmin) return Errno.EPERM;
        return SyscallResult.Ok((ulong)turn.Kernel.AddUserfaultfd(space).Id.Value);
    }

    public void Write(CommandWriter writer) => writer.Add(Space);

    public static CreateUffdCall Read(ref CommandReader reader) => new(reader.Space());
}

/// <summary>UFFDIO_REGISTER of a range in bytes.</summary>
public readonly record struct RegisterUffdCall(UffdId Uffd, ulong Start, ulong Length, UffdModes Modes)
    : ISyscall<RegisterUffdCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Userfaultfd(Uffd) is { } fd
        ? UffdCalls.Register(fd, Start, Length, Modes)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Uffd).Add(Start).Add(Length).Add((uint)Modes);

    public static RegisterUffdCall Read(ref CommandReader reader) =>
        new(reader.Uffd(), reader.U64(), reader.U64(), (UffdModes)reader.U32());
}

/// <summary>UFFDIO_UNREGISTER of a range in bytes.</summary>
public readonly record struct UnregisterUffdCall(UffdId Uffd, ulong Start, ulong Length) : ISyscall<UnregisterUffdCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Userfaultfd(Uffd) is { } fd
        ? UffdCalls.Unregister(turn.Kernel, fd, Start, Length)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Uffd).Add(Start).Add(Length);

    public static UnregisterUffdCall Read(ref CommandReader reader) => new(reader.Uffd(), reader.U64(), reader.U64());
}

/// <summary>UFFDIO_WRITEPROTECT of a range in bytes, on or off.</summary>
public readonly record struct ProtectUffdCall(UffdId Uffd, ulong Start, ulong Length, bool IsOn)
    : ISyscall<ProtectUffdCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Userfaultfd(Uffd) is { } fd
        ? UffdCalls.WriteProtect(turn.Kernel, fd, Start, Length, IsOn)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Uffd).Add(Start).Add(Length).Add(IsOn);

    public static ProtectUffdCall Read(ref CommandReader reader) =>
        new(reader.Uffd(), reader.U64(), reader.U64(), reader.Bool());
}

/// <summary>
/// UFFDIO_COPY of up to one page to a missing page, or UFFDIO_ZEROPAGE without content.
/// </summary>
/// <param name="uffd">The userfaultfd.</param>
/// <param name="address">Address of the page, in bytes.</param>
/// <param name="content">At most a page; empty for UFFDIO_ZEROPAGE.</param>
/// <returns>The bytes filled, or the errno.</returns>
public readonly ref struct FillUffdCall(UffdId uffd, ulong address, ReadOnlySpan<byte> content) : ISyscall<FillUffdCall>
{
    private readonly ReadOnlySpan<byte> _content = content;

    public SyscallResult Run(in Turn turn) => turn.Kernel.Userfaultfd(uffd) is { } fd
        ? UffdCalls.Fill(turn.Kernel, fd, address, _content)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(uffd).Add(address).Add(_content);

    public static FillUffdCall Read(ref CommandReader reader) => new(reader.Uffd(), reader.U64(), reader.Bytes());
}

/// <summary>
/// UFFDIO_POISON: markers that read as broken memory, in place of nothing. -EEXIST over a page.
/// </summary>
/// <remarks>Source: mm/userfaultfd.c: mfill_atomic_pte_poison.</remarks>
public readonly record struct PoisonUffdCall(SpaceId Space, ulong Start, ulong Length) : ISyscall<PoisonUffdCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (((Start | Length) & ~PageGeometry.PageMask) != 0 || Length == 0) return Errno.EINVAL;
        if (!turn.Kernel.Profile.HasUffdPoison) return Errno.EINVAL;
        var space = turn.Kernel.Space(Space);
        for (var at = Start; at < Start + Length; at += PageGeometry.PageSize)
        {
            if (space.Exited || space.Vmas.Find(at) is null) return SyscallResult.Fail(Errno.ENOENT, at > Start);
            var slot = space.PageTable.Ensure(at, 0);
            if (!slot.Exists) return SyscallResult.Fail(Errno.ENOMEM, at > Start);
            if (space.PageTable[slot] != 0) return SyscallResult.Fail(Errno.EEXIST, at > Start);
            space.PageTable[slot] = Pte.UffdPoisonMarker;
        }

        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length);

    public static PoisonUffdCall Read(ref CommandReader reader) => new(reader.Space(), reader.U64(), reader.U64());
}

/// <summary>A handler is asked about missing pages of the userfaultfd from now on.</summary>
public readonly record struct ServeUffdCall(UffdId Uffd) : ISyscall<ServeUffdCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Userfaultfd(Uffd) is not { } fd) return Errno.ESRCH;
        turn.Kernel.Served.Serve(fd, isServed: true);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Uffd);

    public static ServeUffdCall Read(ref CommandReader reader) => new(reader.Uffd());
}

/// <summary>
/// The userfaultfd is closed: its ranges are ordinary memory again, and a fault that waits for it goes on when resumed.
/// </summary>
/// <remarks>Source: fs/userfaultfd.c: userfaultfd_release.</remarks>
public readonly record struct CloseUffdCall(UffdId Uffd) : ISyscall<CloseUffdCall>
{
    public SyscallResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.Userfaultfd(Uffd) is not { } fd) return Errno.EBADF;
        kernel.Served.Serve(fd, isServed: false);
        foreach (var vma in fd.Space.Vmas.All.ToList())
            if (vma.Uffd == fd) UffdCalls.Unregister(kernel, fd, vma.Start, vma.Range.Length);
        kernel.RemoveUserfaultfd(fd);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Uffd);

    public static CloseUffdCall Read(ref CommandReader reader) => new(reader.Uffd());
}
