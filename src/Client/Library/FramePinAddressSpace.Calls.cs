using FramePin.V1;

namespace FramePin.Client;

/// <summary>The memory calls of a process.</summary>
public sealed partial class FramePinAddressSpace
{
    /// <summary>mmap. Returns the address.</summary>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="options">Private anonymous memory, readable and writable, when null.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<ulong> MmapAsync(
        ulong length, MmapOptions? options = null, CancellationToken cancellationToken = default)
    {
        options ??= new MmapOptions();
        var target = options.File?.ToString() ?? options.Device?.ToString() ?? "";
        var flags = options.Flags
            ?? (target.Length == 0 ? MmapFlags.Private | MmapFlags.Anonymous : MmapFlags.Shared);
        var call = new MmapCall
        {
            Address = options.Address,
            Length = length,
            Prot = (uint)options.Protection,
            Flags = (uint)flags,
            Target = target,
            Offset = options.Offset,
            OpenMode = options.OpenMode,
        };
        return (await CallAsync(new MemoryCall { Mmap = call }, cancellationToken).ConfigureAwait(false)).Value;
    }

    /// <summary>munmap. A part of a mapping may be unmapped, and a range may hold no mapping.</summary>
    /// <param name="address">First byte, page-aligned.</param>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task MunmapAsync(ulong address, ulong length, CancellationToken cancellationToken = default) =>
        CallAsync(new MemoryCall { Munmap = new MunmapCall { Address = address, Length = length } }, cancellationToken);

    /// <summary>mprotect. A hole in the range is ENOMEM with the reason "PARTLY_DONE".</summary>
    /// <param name="address">First byte, page-aligned.</param>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="protection">PROT_*.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task MprotectAsync(
        ulong address, ulong length, MemoryProtection protection, CancellationToken cancellationToken = default)
    {
        var call = new MprotectCall { Address = address, Length = length, Prot = (uint)protection };
        return CallAsync(new MemoryCall { Mprotect = call }, cancellationToken);
    }

    /// <summary>mremap. Returns the new address.</summary>
    /// <param name="address">First byte of the old range, page-aligned.</param>
    /// <param name="oldLength">Bytes of the old range; 0 duplicates a shared mapping.</param>
    /// <param name="newLength">Bytes of the new range.</param>
    /// <param name="flags">MREMAP_*.</param>
    /// <param name="newAddress">With <see cref="MremapFlags.Fixed"/> the new address.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<ulong> MremapAsync(
        ulong address, ulong oldLength, ulong newLength, MremapFlags flags = MremapFlags.MayMove, ulong newAddress = 0,
        CancellationToken cancellationToken = default)
    {
        var call = new MremapCall
        {
            Address = address,
            OldLength = oldLength,
            NewLength = newLength,
            Flags = (uint)flags,
            NewAddress = newAddress
        };
        return (await CallAsync(new MemoryCall { Mremap = call }, cancellationToken).ConfigureAwait(false)).Value;
    }

    /// <summary>madvise.</summary>
    /// <param name="address">First byte, page-aligned.</param>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="advice">MADV_*.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task MadviseAsync(
        ulong address, ulong length, MemoryAdvice advice, CancellationToken cancellationToken = default)
    {
        var call = new MadviseCall { Address = address, Length = length, Advice = (int)advice };
        return CallAsync(new MemoryCall { Madvise = call }, cancellationToken);
    }

    /// <summary>mlock, or mlock2 with MLOCK_ONFAULT.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="onFault">Lock pages as they are faulted in, and populate none.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task MlockAsync(
        ulong address, ulong length, bool onFault = false, CancellationToken cancellationToken = default)
    {
        var call = new MlockCall { Address = address, Length = length, Flags = onFault ? 1U : 0 };
        return CallAsync(new MemoryCall { Mlock = call }, cancellationToken);
    }

    /// <summary>munlock.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task MunlockAsync(ulong address, ulong length, CancellationToken cancellationToken = default) =>
        CallAsync(
            new MemoryCall { Munlock = new MunlockCall { Address = address, Length = length } }, cancellationToken);

    /// <summary>msync.</summary>
    /// <param name="address">First byte, page-aligned.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="flags">MS_*.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task MsyncAsync(ulong address, ulong length, uint flags, CancellationToken cancellationToken = default)
    {
        var call = new MsyncCall { Address = address, Length = length, Flags = flags };
        return CallAsync(new MemoryCall { Msync = call }, cancellationToken);
    }

    /// <summary>mincore. Returns a byte for each page, whose lowest bit tells that the page is resident.</summary>
    /// <param name="address">First byte, page-aligned.</param>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<ReadOnlyMemory<byte>> MincoreAsync(
        ulong address, ulong length, CancellationToken cancellationToken = default)
    {
        var call = new MemoryCall { Mincore = new MincoreCall { Address = address, Length = length } };
        return (await CallAsync(call, cancellationToken).ConfigureAwait(false)).Residency.Memory;
    }

    /// <summary>brk. Returns the break as it is afterwards: the old one when the call could not be done.</summary>
    /// <param name="address">The new break in bytes; 0 asks for the present one.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<ulong> BrkAsync(ulong address = 0, CancellationToken cancellationToken = default)
    {
        var call = new MemoryCall { Brk = new BrkCall { Address = address } };
        return (await CallAsync(call, cancellationToken).ConfigureAwait(false)).Value;
    }

    /// <summary>Loads or stores the first byte of each page, as the program itself does.</summary>
    /// <param name="address">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB.</param>
    /// <param name="write">Store.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">The access ended with a signal, which
    /// <see cref="FramePinException.Signal"/> names. Pages before it are touched.</exception>
    public async Task TouchAsync(
        ulong address, int pages, bool write = true, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(pages);
        var call = new TouchCall { Address = address, Pages = (uint)pages, Write = write };
        await CallAsync(new MemoryCall { Touch = call }, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Makes any memory call. The methods above are forms of it.</summary>
    /// <param name="call">The call.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="FramePinException">The call failed. The reason "PARTLY_DONE" tells that it had changed
    /// something before, which Linux keeps.</exception>
    public async Task<CallResponse> CallAsync(MemoryCall call, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(call);
        var request = new CallRequest { AddressSpace = Name, Call = call, RequestId = FramePinCalls.NewRequestId() };
        var answer = await Client.AddressSpaces.CallAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        if (answer.Signal != 0) throw FramePinException.Signalled((int)answer.Signal);
        if (answer.Errno != 0) throw FramePinException.PartlyDone(call.CallCase.ToString(), (int)answer.Errno);
        return answer;
    }
}
