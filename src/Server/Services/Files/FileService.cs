using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;

namespace FramePin.Server.Services;

/// <summary>Memory files over the wire; one file a call.</summary>
internal sealed partial class FileService(MachineRegistry machines, DaemonOptions options)
    : V1.FileService.FileServiceBase
{
    private const ulong LargestFile = 1UL << 46;

    private static void CheckSize(ulong size)
    {
        if (size > LargestFile) throw Refusals.Limit("file_bytes_max", LargestFile, size);
    }

    /// <summary>Runs a call that changes a file, and answers with the file.</summary>
    private static async Task<V1.File> ChangeAsync(
        MachineHost host, string id, string call, Func<FileId, ValueTask<SyscallResult>> change)
    {
        var file = host.Files.Get(id);
        var error = (await change(file.Thing).ConfigureAwait(false)).Error;
        return error == Errno.None ? Views.Of(host, file) : throw Refusals.Errno(call, error);
    }
}
